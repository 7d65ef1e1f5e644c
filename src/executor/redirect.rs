//! Where an answer sends a request on to, and what it takes there.

use ureq::http::uri::Scheme;
use ureq::http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};

use crate::error::{ErrorClass, StepError};

/// The request that this answer asks for, if it asks for one. It has no body.
///
/// # Errors
/// What keeps it from being sent.
pub(super) fn redirected<B>(
    asked: Request<()>,
    answer: &Response<B>,
) -> Result<Option<Request<Vec<u8>>>, StepError> {
    let status = answer.status();
    if !status.is_redirection() || status == StatusCode::NOT_MODIFIED {
        return Ok(None);
    }
    let location = answer.headers().get(header::LOCATION).map(|at| at.to_str());
    let Some(Ok(location)) = location else {
        let message = format!("the server said {status}, but not where to ask");
        return Err(StepError::new(ErrorClass::ServerError, message));
    };
    let (mut asked, ()) = asked.into_parts();
    let target = target(&asked.uri, location).ok_or_else(|| {
        let message = format!("the server said {status}, and `{location}` is no place to ask");
        StepError::new(ErrorClass::ServerError, message)
    })?;
    let retains = matches!(status.as_u16(), 307 | 308);
    if retains && !asked.method.is_safe() {
        let message = format!(
            "the server said {status}: ask {target}; a request that changes something is not sent \
             on, so write that address as `url`"
        );
        return Err(StepError::new(ErrorClass::Validation, message));
    }
    if !retains && asked.method != Method::HEAD {
        asked.method = Method::GET;
    }
    asked.headers.remove(header::CONTENT_TYPE);
    if origin(&asked.uri) != origin(&target) {
        asked.headers = without_credentials(asked.headers);
    }
    asked.uri = target;
    Ok(Some(Request::from_parts(asked, Vec::new())))
}

/// Scheme, host and port (RFC 6454, section 4).
fn origin(uri: &Uri) -> (Option<&str>, Option<String>, Option<u16>) {
    let usual = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let host = uri.host().map(str::to_ascii_lowercase);
    (uri.scheme_str(), host, uri.port_u16().or(Some(usual)))
}

/// The headers that may go to another server than the one that they were meant for.
fn without_credentials(headers: HeaderMap) -> HeaderMap {
    let kept = headers.iter().filter(|(name, value)| {
        let named = [header::AUTHORIZATION, header::COOKIE, header::HOST].contains(name);
        !named && !value.is_sensitive()
    });
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The address that a location names, seen from another address (RFC 3986, section 5.2).
fn target(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let scheme = base.scheme_str()?;
    let authority = base.authority()?;
    let query = location.find('?').unwrap_or(location.len());
    let (way, query) = location.split_at(query);
    let absolute = way.split('/').next().is_some_and(|first| first.contains(':'));
    let text = if absolute {
        location.to_string()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else {
        let path = match way {
            "" => base.path().to_string(),
            _ if way.starts_with('/') => without_dots(way),
            _ => {
                let (folder, _) = base.path().rsplit_once('/').unwrap_or_default();
                without_dots(&format!("{folder}/{way}"))
            }
        };
        format!("{scheme}://{authority}{path}{query}")
    };
    let target: Uri = text.parse().ok()?;
    let usable = [&Scheme::HTTP, &Scheme::HTTPS].map(Some).contains(&target.scheme());
    (usable && target.host().is_some()).then_some(target)
}

/// A path that begins with `/`, without `.` and `..`.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        match part {
            ".." => drop(kept.pop()),
            "." => {}
            _ => kept.push(part),
        }
        if is_last && matches!(part, "." | "..") {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn locations_are_seen_from_the_address_that_was_asked() {
        let base: Uri = "http://a.example:81/b/c/d?q=1".parse().unwrap();
        for (location, expected) in [
            ("https://x.example/y?z#f", Some("https://x.example/y?z")),
            ("//x.example/y", Some("http://x.example/y")),
            ("/y?z=http://e", Some("http://a.example:81/y?z=http://e")),
            ("g", Some("http://a.example:81/b/c/g")),
            ("./g/", Some("http://a.example:81/b/c/g/")),
            ("../g?y", Some("http://a.example:81/b/g?y")),
            ("../../../..", Some("http://a.example:81/")),
            ("..", Some("http://a.example:81/b/")),
            ("?y", Some("http://a.example:81/b/c/d?y")),
            ("ftp://x.example/", None),
            ("mailto:ann@x.example", None),
            ("http://", None),
            ("//", None),
            ("a b", None),
        ] {
            let found = target(&base, location).map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| origin(&a.parse().unwrap()) == origin(&b.parse().unwrap());
        assert!(same("http://a.example/x", "http://A.example:80/y"));
        assert!(same("https://a.example/x", "https://a.example:443/y"));
        assert!(!same("http://a.example/x", "https://a.example/x"));
        assert!(!same("http://a.example/x", "http://a.example:81/x"));
        assert!(!same("http://a.example/x", "http://b.example/x"));
        assert!(!same("http://a.example/x", "http://a.example@b.example/x"));
    }
}
