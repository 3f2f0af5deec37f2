//! What the README walks through.

use std::path::Path;

use crate::sandbox::{Sandbox, names};

fn quickstart() -> Sandbox {
    let sandbox = Sandbox::new("");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let text = std::fs::read_to_string(root.join("quickstart.yaml")).unwrap();
    sandbox.write("p.yaml", &text.replace("./quickstart/", "pipelines/quickstart/"));
    for entry in std::fs::read_dir(root.join("quickstart/texts")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        sandbox.write(&format!("pipelines/quickstart/texts/{name}"), &text);
    }
    let script = std::fs::read_to_string(root.join("quickstart/table.sh")).unwrap();
    sandbox.write("pipelines/quickstart/table.sh", &script);
    sandbox
}

#[test]
fn the_quickstart_does_what_its_header_says() {
    let sandbox = quickstart();
    assert_eq!(sandbox.run().len(), 21);
    let table = sandbox.read("results/quickstart.txt");
    assert_eq!(table.lines().count(), 6, "{table}");
    assert!(table.contains("en         52         33  the and sea"), "{table}");
    assert!(sandbox.run().is_empty());

    let german = sandbox.read("pipelines/quickstart/texts/de.txt");
    sandbox.write("pipelines/quickstart/texts/de.txt", &format!("{german}\n"));
    assert_eq!(sandbox.run(), names(&["text[lang=de]", "words[lang=de]"]));

    let five = sandbox.run_with(&["--set", "vars.top=5"]);
    assert_eq!(five.len(), 6, "{five:?}");
    assert!(five.contains("table") && five.contains("top[lang=ru]"));

    sandbox.write("pipelines/quickstart/texts/it.txt", "Il mare parla.\n");
    let italian = sandbox.run_with(&["--set", "vars.languages=[de, en, es, fr, ru, it]"]);
    assert_eq!(
        italian,
        names(&["text[lang=it]", "words[lang=it]", "count[lang=it]", "top[lang=it]", "table"])
    );
    assert_eq!(sandbox.run_with(&["--profile", "small"]), names(&["table"]));
}
