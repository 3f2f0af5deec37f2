//! The page in a real browser. `OKAPI_CHROMIUM` names the program; without it this does not run, and says so.

use std::process::Command;

use serde_json::{Value, json};

#[test]
fn a_browser_shows_and_sorts_the_page() {
    let Some(chromium) = std::env::var_os("OKAPI_CHROMIUM") else {
        eprintln!("did not run: OKAPI_CHROMIUM names no browser");
        return;
    };
    let mut report = crate::report();
    report.scores.push(crate::score("ru", "sft", 1, 0.5));
    report.scores.push(crate::score("zh", "sft", 1, 0.1));
    // What has no score comes last in both directions.
    report.scores.push(crate::score("fr", "base", 1, 0.9));
    let errors =
        "<script>window.errors = []; onerror = (it) => { errors.push(String(it)); };</script>";
    let probe = format!("<script>{}</script>\n</body>", include_str!("probe.js"));
    let page = okapi_report::html(&report)
        .replacen("<head>", &format!("<head>{errors}"), 1)
        .replacen("</body>", &probe, 1);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.html");
    std::fs::write(&file, page).unwrap();
    let output = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--enable-logging=stderr", "--window-size=500,900", "--dump-dom"])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(format!("file://{}", file.display()))
        .output()
        .unwrap();
    let console = String::from_utf8_lossy(&output.stderr);
    assert!(!console.contains("CONSOLE"), "{console}");
    let dom = String::from_utf8_lossy(&output.stdout);
    // The script that asks has the word too.
    let answer = dom.rsplit("FOUND").nth(1).unwrap();
    let found: Value = serde_json::from_str(answer).unwrap();

    assert_eq!(found["unsorted"], "English Russian German Chinese French | Telugu");
    assert_eq!(found["descending"], "Russian English German Chinese French | Telugu");
    assert_eq!(found["ascending"], "Chinese German English Russian French | Telugu");
    assert_eq!(found["again"], found["unsorted"]);
    assert!(found["links"].as_u64().unwrap() > 30);
    assert_eq!(found["broken"], 0);
    assert!(found["folded"].as_u64().unwrap() > 5);
    assert_eq!(found["foldedInPrint"], 0);
    assert_eq!(found["foldedAfterwards"], found["folded"]);
    assert_eq!(found["unfolded"], true);
    assert_eq!(found["marked"], "underline", "a number that leads somewhere shows it");
    assert_eq!(found["themes"], 2);
    assert_eq!(found["overflow"], false, "only tables scroll sideways");
    assert_eq!(found["errors"], json!([]));
}
