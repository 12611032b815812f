//! Tokens: who may call, as a file keeps it.
//!
//! ```yaml
//! tokens:
//!   - {name: scoring, role: reader, views: [origin_weather], sha256: "…", created_at: "2026-01-01T00:00:00Z"}
//! ```
//!
//! A token is 32 random bytes, so that its plain hash can neither be guessed nor looked up; the file never holds it.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::ValueEnum;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::calls::Needs;
use crate::error::ErrorKind;
use crate::time::EventTimestamp;

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Get features and list definitions.
    Reader,
    /// Push events, too.
    Writer,
    /// Materialize and manage, too.
    Admin,
}

impl Role {
    fn may(self, needs: Needs) -> bool {
        match needs {
            Needs::Nothing | Needs::Reader => true,
            Needs::Writer => self >= Role::Writer,
            Needs::Admin => self >= Role::Admin,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Role::Reader => "reader",
            Role::Writer => "writer",
            Role::Admin => "admin",
        }
    }
}

/// A token as the file keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenEntry {
    pub name: String,
    pub role: Role,
    /// Feature views that it may be used for; None: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub views: Option<BTreeSet<String>>,
    /// Of the token, in hexadecimal digits.
    pub sha256: String,
    pub created_at: String,
    /// From when on it is worth nothing; None: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

impl TokenEntry {
    /// The token as a server compares it, if the entry is as it was written.
    fn known(&self) -> Option<Token> {
        let expires_at = self.expires_at.as_deref().map(EventTimestamp::parse).transpose().ok()?;
        let caller = Caller { role: self.role, views: self.views.clone().map(Arc::new) };
        Some(Token { hash: decode_hash(&self.sha256)?, caller, expires_at })
    }
}

/// The tokens of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenFile {
    #[serde(default)]
    pub tokens: Vec<TokenEntry>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    #[error("the file of tokens {} cannot be read", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the file of tokens {} cannot be written", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("the file of tokens {} is not as it was written: {problem}", path.display())]
    Malformed { path: PathBuf, problem: String },
    #[error("there is a token `{name}` already; revoke it, or give this one another name")]
    NameTaken { name: String },
    #[error("there is no token `{name}`; see `asof tokens list`")]
    Unknown { name: String },
    #[error("`{name}` cannot be the name of a token; use letters, digits, `_`, `-` and `.`, at most 128")]
    Name { name: String },
    #[error("the system gives no random bytes")]
    NoRandomness,
}

impl TokenError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            TokenError::Read { .. } | TokenError::Write { .. } | TokenError::NoRandomness => ErrorKind::Unavailable,
            TokenError::Malformed { .. } | TokenError::NameTaken { .. } | TokenError::Name { .. } => ErrorKind::Invalid,
            TokenError::Unknown { .. } => ErrorKind::NotFound,
        }
    }
}

impl TokenFile {
    /// The tokens of a file; where there is none, none.
    ///
    /// # Errors
    /// A file that cannot be read, or is no file of tokens.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(TokenFile::default()),
            Err(source) => return Err(TokenError::Read { path: path.to_owned(), source }),
        };
        Self::parse(&text, path)
    }

    /// `path` is for messages.
    ///
    /// # Errors
    /// A text that is no file of tokens.
    pub fn parse(text: &str, path: &Path) -> Result<Self, TokenError> {
        let malformed = |problem: String| TokenError::Malformed { path: path.to_owned(), problem };
        // What is wrong is told without the text, which a message could carry to where it may be read.
        let file: TokenFile = serde_saphyr::from_str(text)
            .map_err(|_| malformed("it has to be `tokens: [{name, role, views, sha256, created_at}, …]`".to_owned()))?;
        if let Some(entry) = file.tokens.iter().find(|entry| entry.known().is_none()) {
            return Err(malformed(format!("the hash of `{}` is none, or its end", entry.name)));
        }
        Ok(file)
    }

    /// Writes the file anew in one step; nobody but its owner may read it.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), TokenError> {
        let failed = |source| TokenError::Write { path: path.to_owned(), source };
        let text = serde_saphyr::to_string(self).map_err(|error| failed(std::io::Error::other(error.to_string())))?;
        let new = path.with_extension("yaml.new");
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&new).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&new, path).map_err(failed)
    }

    /// Makes a token, which is given back and kept nowhere.
    ///
    /// # Errors
    /// A name that is taken, or that none can have.
    pub fn create(
        &mut self,
        name: &str,
        role: Role,
        views: Option<BTreeSet<String>>,
        now: EventTimestamp,
        lasts: Option<Duration>,
    ) -> Result<String, TokenError> {
        let is_name_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > 128 || !name.chars().all(is_name_char) {
            return Err(TokenError::Name { name: name.to_owned() });
        }
        if self.tokens.iter().any(|entry| entry.name == name) {
            return Err(TokenError::NameTaken { name: name.to_owned() });
        }
        let token = random_token()?;
        let sha256 = encode_hash(digest(&SHA256, token.as_bytes()).as_ref());
        let expires_at = lasts.map(|lasts| now.saturating_add(lasts).to_string());
        let (name, created_at) = (name.to_owned(), now.to_string());
        self.tokens.push(TokenEntry { name, role, views, sha256, created_at, expires_at });
        Ok(token)
    }

    /// # Errors
    /// A name that no token has.
    pub fn revoke(&mut self, name: &str) -> Result<(), TokenError> {
        let before = self.tokens.len();
        self.tokens.retain(|entry| entry.name != name);
        if self.tokens.len() == before { Err(TokenError::Unknown { name: name.to_owned() }) } else { Ok(()) }
    }
}

/// # Errors
/// [`TokenError::NoRandomness`].
pub fn random_token() -> Result<String, TokenError> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| TokenError::NoRandomness)?;
    Ok(format!("asof_{}", URL_SAFE_NO_PAD.encode(bytes)))
}

fn encode_hash(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode_hash(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(hash)
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    role: Role,
    /// None: all.
    views: Option<Arc<BTreeSet<String>>>,
}

impl Caller {
    /// One who may do everything: nobody is asked for a token, or this is a command on the same project.
    pub fn anybody() -> Self {
        Caller { role: Role::Admin, views: None }
    }

    pub fn may(&self, needs: Needs) -> bool {
        self.role.may(needs)
    }

    pub fn role(&self) -> Role {
        self.role
    }

    pub fn may_use(&self, view: &str) -> bool {
        self.views.as_ref().is_none_or(|views| views.contains(view))
    }

    pub fn is_scoped(&self) -> bool {
        self.views.is_some()
    }
}

/// A token that a server takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    hash: [u8; 32],
    pub caller: Caller,
    /// From when on it is worth nothing.
    pub expires_at: Option<EventTimestamp>,
}

/// The tokens that a server takes.
#[derive(Debug, Default)]
pub struct Tokens(Vec<Token>);

impl Tokens {
    pub fn new(file: &TokenFile) -> Self {
        Tokens(file.tokens.iter().filter_map(TokenEntry::known).collect())
    }

    /// Adds a token that stands in no file, for commands on the same project.
    pub fn with_admin(mut self, token: &str) -> Self {
        self.0.push(Token { hash: hash_of(token), caller: Caller::anybody(), expires_at: None });
        self
    }

    /// What is known of a token; takes as long whichever it is, and whether it is one.
    pub fn find(&self, token: &str) -> Option<&Token> {
        let hash = hash_of(token);
        let mut found = None;
        for known in &self.0 {
            if bool::from(known.hash.ct_eq(&hash)) {
                found = Some(known);
            }
        }
        found
    }
}

fn hash_of(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(views: Option<&[&str]>) -> (TokenFile, String) {
        let mut file = TokenFile::default();
        let views = views.map(|views| views.iter().map(|view| (*view).to_owned()).collect());
        let token = file.create("a", Role::Writer, views, EventTimestamp::from_micros(0), None).unwrap();
        (file, token)
    }

    #[test]
    fn a_file_keeps_what_a_token_may_do_and_not_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.yaml");
        assert_eq!(TokenFile::read(&path).unwrap(), TokenFile::default());
        let (file, token) = created(Some(&["v"]));
        file.write(&path).unwrap();
        assert_eq!(TokenFile::read(&path).unwrap(), file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&token) && !text.contains(&token["asof_".len()..]), "{text}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_token_is_known_by_nothing_but_itself() {
        let (file, token) = created(Some(&["v"]));
        let tokens = Tokens::new(&file);
        let caller = &tokens.find(&token).unwrap().caller;
        assert!(caller.may(Needs::Reader) && caller.may(Needs::Writer) && !caller.may(Needs::Admin));
        assert!(caller.may_use("v") && !caller.may_use("w"));
        for other in ["", "asof_", &token[1..], &format!("{token} "), &file.tokens[0].sha256] {
            assert_eq!(tokens.find(other), None, "{other}");
        }
        assert_ne!(created(None).1, created(None).1);
    }

    #[test]
    fn a_token_that_lasts_for_a_time_ends_with_it() {
        let mut file = TokenFile::default();
        let now = EventTimestamp::from_micros(0);
        let token = file.create("a", Role::Reader, None, now, Some(Duration::from_secs(1))).unwrap();
        assert_eq!(Tokens::new(&file).find(&token).unwrap().expires_at, Some(EventTimestamp::from_micros(1_000_000)));
        file.tokens[0].expires_at = Some("some day".to_owned());
        let text = serde_saphyr::to_string(&file).unwrap();
        assert!(matches!(TokenFile::parse(&text, Path::new("t")), Err(TokenError::Malformed { .. })));
    }

    #[test]
    fn names_are_given_once_and_revoked_once() {
        let (mut file, token) = created(None);
        let again = file.create("a", Role::Reader, None, EventTimestamp::from_micros(0), None);
        assert!(matches!(again, Err(TokenError::NameTaken { .. })));
        assert!(matches!(
            file.create("a b", Role::Reader, None, EventTimestamp::from_micros(0), None),
            Err(TokenError::Name { .. })
        ));
        file.revoke("a").unwrap();
        assert!(matches!(file.revoke("a"), Err(TokenError::Unknown { .. })));
        assert_eq!(Tokens::new(&file).find(&token), None);
    }

    #[test]
    fn a_file_that_is_none_is_told_without_its_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.yaml");
        for text in [
            "tokens: asof_secret",
            "tokens: [{name: a, role: king, sha256: x, created_at: y}]",
            "{",
            "secret: asof_secret",
        ] {
            std::fs::write(&path, text).unwrap();
            let error = crate::error::error_chain(&TokenFile::read(&path).unwrap_err());
            assert!(error.contains("tokens.yaml") && !error.contains("secret"), "{error}");
        }
    }
}
