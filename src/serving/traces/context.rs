//! The headers `traceparent` and `tracestate` of W3C Trace Context, by which a caller says which trace a request is part of.

use axum::http::HeaderMap;

/// Longer states are dropped, as the recommendation lets one do.
const STATE_BYTES_MAX: usize = 512;
const SAMPLED: u8 = 1;

/// What a caller says of the trace that its request is part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentContext {
    pub trace_id: u128,
    pub span_id: u64,
    pub is_sampled: bool,
    pub state: String,
}

impl ParentContext {
    /// None: the caller says nothing, or nothing that can be understood, which is the same.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all("traceparent").iter();
        let (Some(parent), None) = (parents.next(), parents.next()) else { return None };
        let (trace_id, span_id, flags) = parse(parent.to_str().ok()?)?;
        let states: Vec<&str> = headers.get_all("tracestate").iter().filter_map(|state| state.to_str().ok()).collect();
        let state = states.join(",");
        let state = if state.len() > STATE_BYTES_MAX { String::new() } else { state };
        Some(ParentContext { trace_id, span_id, is_sampled: flags & SAMPLED != 0, state })
    }
}

/// `VERSION-TRACE-SPAN-FLAGS` in lower-case hexadecimal; later versions may go on after another dash.
fn parse(text: &str) -> Option<(u128, u64, u8)> {
    let mut parts = text.split('-');
    let mut hex = |digits: usize| {
        let part = parts.next().filter(|part| part.len() == digits)?;
        let is_hex = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_hex.then(|| u128::from_str_radix(part, 16).ok()).flatten()
    };
    let version = hex(2)?;
    let (trace_id, span_id, flags) = (hex(32)?, hex(16)?, hex(2)?);
    let is_whole = version != 0 || parts.next().is_none();
    let is_valid = version != 0xff && is_whole && trace_id != 0 && span_id != 0;
    is_valid.then_some((trace_id, span_id as u64, flags as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn a_parent_is_understood_as_the_recommendation_says() {
        let known = Some((0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331, 1));
        let cases = [
            (format!("00-{TRACE}-b7ad6b7169203331-01"), known),
            (format!("00-{TRACE}-b7ad6b7169203331-00"), known.map(|(trace, span, _)| (trace, span, 0))),
            // A version that is not known yet may say more.
            (format!("cc-{TRACE}-b7ad6b7169203331-01"), known),
            (format!("cc-{TRACE}-b7ad6b7169203331-01-what-comes"), known),
            (format!("00-{TRACE}-b7ad6b7169203331-01-what-comes"), None),
            (format!("cc-{TRACE}-b7ad6b7169203331-01.what"), None),
            (format!("ff-{TRACE}-b7ad6b7169203331-01"), None),
            (format!("00-{}-b7ad6b7169203331-01", TRACE.to_uppercase()), None),
            (format!("00-{TRACE}-0000000000000000-01"), None),
            (format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)), None),
            (format!("00-+{}-b7ad6b7169203331-01", &TRACE[1..]), None),
            (format!("00-{TRACE}-b7ad6b7169203331"), None),
            (String::new(), None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(&text), expected, "{text}");
        }
    }

    #[test]
    fn a_state_is_carried_along_and_one_that_is_too_long_is_dropped() {
        let mut headers = HeaderMap::new();
        assert_eq!(ParentContext::of(&headers), None);
        headers.insert("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01").parse().unwrap());
        headers.append("tracestate", "a=1".parse().unwrap());
        headers.append("tracestate", "b=2".parse().unwrap());
        assert_eq!(ParentContext::of(&headers).unwrap().state, "a=1,b=2");
        headers.append("tracestate", "c".repeat(600).parse().unwrap());
        assert_eq!(ParentContext::of(&headers).unwrap().state, "");
        headers.append("traceparent", format!("00-{TRACE}-b7ad6b7169203332-01").parse().unwrap());
        assert_eq!(ParentContext::of(&headers), None, "two parents are none");
    }
}
