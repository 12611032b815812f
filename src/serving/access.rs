//! Who a caller is and whether a call is theirs to make.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use axum::http::{Extensions, HeaderMap, header};
use tonic::Status;

use super::calls::{Call, Needs};
use super::listen::Peer;
use super::tokens::{Caller, Token, TokenError, TokenFile, Tokens};
use crate::definition::Definitions;
use crate::retrieval::ResolvedRequest;
use crate::time::{Clock, SystemClock};

/// How soon a file of tokens that was changed is read again.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(300);

/// Checks callers; shared by gRPC and HTTP.
#[derive(Clone)]
pub(super) struct Access {
    /// None: nobody is asked for a token.
    tokens: Option<Arc<FollowedTokens>>,
}

struct FollowedTokens {
    path: PathBuf,
    /// Of commands on the same project.
    own: String,
    tokens: ArcSwap<Tokens>,
}

impl Access {
    pub fn open() -> Self {
        Access { tokens: None }
    }

    /// Access by the tokens of a file, and by `own`.
    ///
    /// # Errors
    /// A file that is no file of tokens.
    pub fn by_tokens(path: PathBuf, own: &str) -> Result<Self, TokenError> {
        let tokens = Tokens::new(&TokenFile::read(&path)?).with_admin(own);
        let followed = FollowedTokens { path, own: own.to_owned(), tokens: ArcSwap::from_pointee(tokens) };
        Ok(Access { tokens: Some(Arc::new(followed)) })
    }

    /// Reads the file again whenever it changes; one that is wrong leaves the tokens as they are.
    pub async fn follow(self) {
        let Some(followed) = &self.tokens else { return };
        let changed_at = || std::fs::metadata(&followed.path).and_then(|file| file.modified()).ok();
        // What changed while the server started is read, too.
        let mut known: Option<Option<SystemTime>> = None;
        loop {
            let found = changed_at();
            if known != Some(found) {
                match TokenFile::read(&followed.path) {
                    Ok(file) => followed.tokens.store(Arc::new(Tokens::new(&file).with_admin(&followed.own))),
                    Err(error) => {
                        tracing::error!(error = &error as &dyn std::error::Error, "the tokens stay as they were");
                    }
                }
                known = Some(found);
            }
            tokio::time::sleep(FOLLOW_INTERVAL).await;
        }
    }

    /// Who makes this call, if it is theirs to make. A call that is not listed is for admins.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a token that is one, PERMISSION_DENIED where its role does not suffice.
    pub fn admit(&self, call: Option<&Call>, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Caller, Status> {
        let Some(followed) = &self.tokens else { return Ok(Caller::anybody()) };
        let needs = call.map_or(Needs::Admin, |call| call.needs);
        let is_probe = needs == Needs::Nothing || call.is_some_and(|call| call.name == "GET /metrics");
        if is_probe && peer.is_some_and(|peer| peer.address.ip().to_canonical().is_loopback()) {
            // Whom nothing tells apart from the server's own machine learns only that it lives, and its numbers.
            return Ok(Caller::anybody());
        }
        let Some(token) = bearer(headers) else {
            return Err(Status::unauthenticated("a token is needed: send `authorization: Bearer TOKEN`"));
        };
        let tokens = followed.tokens.load();
        let Some(Token { caller, expires_at, .. }) = tokens.find(token) else {
            return Err(Status::unauthenticated("the token is not known here; it may be revoked"));
        };
        if let Some(expired_at) = expires_at.filter(|at| *at <= SystemClock.now()) {
            return Err(Status::unauthenticated(format!("the token has expired at {expired_at}")));
        }
        // What is not listed may concern any view.
        if caller.is_scoped() && call.is_none_or(|call| call.is_of_all_views) {
            return Err(Status::permission_denied("the token is for some views, and the call may concern any"));
        }
        if caller.may(needs) {
            return Ok(caller.clone());
        }
        let needed = match needs {
            Needs::Writer => "writer or admin",
            _ => "admin",
        };
        let role = caller.role().as_str();
        Err(Status::permission_denied(format!("the token's role is {role}, and the call needs {needed}")))
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The caller that the entrance let in.
pub(super) fn caller(extensions: &Extensions) -> Caller {
    // Only calls that did not come through an entrance have none, such as those of tests.
    extensions.get::<Caller>().cloned().unwrap_or_else(Caller::anybody)
}

impl Caller {
    /// # Errors
    /// PERMISSION_DENIED for a view that the token is not for.
    pub(super) fn check_request(&self, resolved: &ResolvedRequest) -> Result<(), Status> {
        self.check_views(resolved.views.iter().map(|view| view.view.name.as_str()))
    }

    /// The views of a call that is for all where it names none.
    ///
    /// # Errors
    /// PERMISSION_DENIED for a view that the token is not for, or all of them.
    pub(super) fn check_named_views(&self, views: &[String]) -> Result<(), Status> {
        if self.is_scoped() && views.is_empty() {
            return Err(Status::permission_denied("the token is for some views, and the call for all; name views"));
        }
        self.check_views(views.iter().map(String::as_str))
    }

    /// # Errors
    /// PERMISSION_DENIED for a view that the token is not for.
    pub(super) fn check_views<'a>(&self, mut views: impl Iterator<Item = &'a str>) -> Result<(), Status> {
        match views.find(|view| !self.may_use(view)) {
            Some(view) => Err(Status::permission_denied(format!("the token is not for feature view `{view}`"))),
            None => Ok(()),
        }
    }

    /// # Errors
    /// PERMISSION_DENIED for a source that feeds a view that the token is not for, or none at all.
    pub(super) fn check_source(&self, definitions: &Definitions, source: &str) -> Result<(), Status> {
        if !self.is_scoped() {
            return Ok(());
        }
        let is_fed = |view: &&crate::definition::FeatureView| {
            definitions.streamed_source(view).is_some_and(|fed| fed.name.as_str() == source)
        };
        let mut fed = definitions.feature_views.iter().filter(is_fed).peekable();
        if fed.peek().is_none() {
            return Err(Status::permission_denied(format!("the token is not for source `{source}`")));
        }
        self.check_views(fed.map(|view| view.name.as_str()))
    }
}
