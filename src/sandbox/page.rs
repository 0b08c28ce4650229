//! The inbox page, as files that are embedded in the program.
//!
//! Apart from the API that the page reads: it is served as it is, needs no build step, and loads nothing from elsewhere.

use axum::extract::Path;
use axum::http::header;
use axum::response::{Html, IntoResponse};

use super::query::{Failure, missing};

const PAGE: &str = include_str!("page/page.html");
/// The page needs nothing but these, and what a card says must not become code.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "text/css;charset=utf-8";
const SCRIPT: &str = "text/javascript;charset=utf-8";
const FILES: [(&str, &str, &str); 8] = [
    ("page.css", STYLE, include_str!("page/page.css")),
    ("page.js", SCRIPT, include_str!("page/page.js")),
    ("dom.js", SCRIPT, include_str!("page/dom.js")),
    ("words.js", SCRIPT, include_str!("page/words.js")),
    ("card.js", SCRIPT, include_str!("page/card.js")),
    ("refused.js", SCRIPT, include_str!("page/refused.js")),
    ("faults.js", SCRIPT, include_str!("page/faults.js")),
    ("markdown.js", SCRIPT, include_str!("page/markdown.js")),
];

/// `GET /`
pub(super) async fn page() -> impl IntoResponse {
    (headers(), Html(PAGE))
}

/// `GET /sandbox/page/{file}`
pub(super) async fn file(Path(name): Path<String>) -> Result<impl IntoResponse, Failure> {
    let found = FILES.iter().find(|(known, ..)| *known == name);
    let (_, kind, text) = found.ok_or_else(|| missing(format!("no file {name}")))?;
    Ok((headers(), [(header::CONTENT_TYPE, *kind)], *text))
}

/// Never kept by a browser: the next version of the program has another page under the same address.
fn headers() -> [(header::HeaderName, &'static str); 3] {
    [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use reqwest::Method;

    use super::super::testing::Bench;
    use super::*;

    #[tokio::test]
    async fn the_page_loads_its_own_files_and_nothing_from_elsewhere() {
        let bench = Bench::start().await;
        let mut texts = Vec::new();
        let files = FILES.iter().map(|(name, ..)| format!("/sandbox/page/{name}"));
        for path in files.chain(["/".to_owned()]) {
            let response = bench.request(Method::GET, &path).send().await.unwrap();
            assert_eq!(response.status(), 200, "{path}");
            let policy = response.headers()["content-security-policy"].to_str().unwrap();
            assert!(policy.contains("default-src 'none'"), "{path}");
            texts.push((path, response.text().await.unwrap()));
        }
        for (path, text) in &texts {
            // The name of a namespace is no address.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for outside in [
                "http://",
                "https://",
                "@import",
                "innerHTML",
                "insertAdjacentHTML",
                "url(",
            ] {
                assert!(!text.contains(outside), "{path}: {outside}");
            }
            // What a file loads is served.
            let loads = text
                .split(['"', '\''])
                .filter(|part| part.starts_with("/sandbox/page/"));
            let imports = text.split('"').filter_map(|part| part.strip_prefix("./"));
            let names: Vec<_> = loads
                .filter_map(|part| part.rsplit('/').next())
                .chain(imports)
                .collect();
            for name in names {
                assert!(FILES.iter().any(|(known, ..)| *known == name), "{path} loads {name}");
            }
        }
        assert_eq!(bench.get("/sandbox/page/other.js").await.0, 404);
    }

    #[test]
    fn an_empty_page_says_the_next_command() {
        let command = "dingcard publish --mobile 15012341231 --template overtime --param pv=2000";
        assert!(include_str!("page/page.js").contains(command));
    }
}
