//! `release`: models as the Hugging Face hub has them.

use serde_json::json;

use crate::sandbox::Sandbox;

const PIPELINE: &str = r#"
okapi: 1
name: releases
nodes:
  rows: {stage: import, params: {path: rows.jsonl, kind: instructions}}
  questions: {stage: import, params: {path: questions.jsonl, kind: questions}}
  base:
    stage: init_model
    inputs: {corpus: rows}
    seed: 3
    params: {family: llama, layers: 1, hidden: 16, vocabulary: 300, positions: 128}
  sft:
    stage: sft
    inputs: {model: base, examples: rows}
    prompts: {prompt: prompt.j2}
    seed: 5
    params: {method: lora, epochs: 1, batch: 4, warmup: 2, learning_rate: 5.0e-3}
  arc: {stage: evaluate, inputs: {model: "sft:model", questions: questions}, params: {task: arc, language: de}}
  whole:
    stage: release
    inputs: {model: "sft:model", scores: "arc:summary"}
    params: {title: An assistant, languages: [de], license: apache-2.0}
  adapter:
    stage: release
    inputs: {model: "sft:model"}
    params: {title: Its adapter, base_model: someone/base, adapter: true}
publish: {results/whole: whole, results/adapter: adapter}
"#;

#[test]
fn a_release_has_the_files_of_the_model_and_a_card_of_all_that_made_it() {
    let sandbox = Sandbox::new(PIPELINE);
    let row = |n: u32| {
        format!("{}\n", json!({"instruction": format!("Say {n}."), "output": format!("{n}")}))
    };
    sandbox.write("rows.jsonl", &(0..20).map(row).collect::<String>());
    let question = |n: u32| {
        let choices = ["1", "2", "3", "4"];
        format!(
            "{}\n",
            json!({"id": n.to_string(), "question": format!("Say {n}."), "choices": choices, "answerKey": "A"})
        )
    };
    sandbox.write("questions.jsonl", &(0..8).map(question).collect::<String>());
    sandbox.write("prompt.j2", "{{ instruction }}{{ input }}\n");
    sandbox.run();
    let card = sandbox.read("results/whole/README.md");
    for part in [
        "library_name: transformers\npipeline_tag: text-generation\nlanguage:\n- \"de\"\nlicense: \"apache-2.0\"\n",
        "\n# An assistant\n\n## Supervised fine-tuning\n",
        "| epochs | 1 |",
        "| arc | de | harness | 0 | 8 | ",
        "| base | init_model ",
        "| rows | import ",
        "| sft | sft ",
        "\n## Prompt\n",
        "\n```jinja\n{{ instruction }}{{ input }}\n```\n",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
    let file = |path: &str| std::fs::read(sandbox.path(path)).unwrap();
    let said = sandbox.okapi(&["get", "p.yaml", "sft:model", "model"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let template = String::from_utf8(file("results/whole/chat_template.jinja")).unwrap();
    assert!(template.contains("{{ instruction }}{{ input }}") && template.contains("</s>"));
    assert_eq!(file("results/adapter/chat_template.jinja"), template.as_bytes());
    for name in ["model.safetensors", "tokenizer.json", "adapter/adapter_model.safetensors"] {
        assert_eq!(
            file(&format!("results/whole/{name}")),
            file(&format!("model/{name}")),
            "{name}"
        );
    }
    let card = sandbox.read("results/adapter/README.md");
    for part in [
        "library_name: peft\n",
        "base_model: \"someone/base\"\nbase_model_relation: adapter\n",
        "| rows | import ",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
    let name = "adapter_model.safetensors";
    assert_eq!(file(&format!("results/adapter/{name}")), file(&format!("model/adapter/{name}")));
    assert!(!sandbox.path("results/adapter/model.safetensors").exists());
    // A model that was made without has none to release.
    sandbox.edit(
        "p.yaml",
        "model: \"sft:model\"}\n    params: {title: Its",
        "model: base}\n    params: {title: Its",
    );
    let said = sandbox.okapi(&["run", "p.yaml"]);
    assert!(said.stderr.contains("the model has no adapter"), "{}", said.stderr);
}
