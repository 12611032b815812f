use super::tree::Entry;
use super::*;
use crate::diagnostics::Reporter;

/// The tree drawn one node a line, with positions.
fn drawn(text: &str) -> String {
    fn draw(node: &Node, depth: usize, out: &mut String) {
        let place = format!("{}:{}+{}", node.span.line, node.span.column, node.span.length);
        let line = match &node.kind {
            Kind::Null => "null".to_owned(),
            Kind::Scalar(text) => format!("{text:?}"),
            Kind::Sequence(_) => "list".to_owned(),
            Kind::Mapping(_) => "mapping".to_owned(),
        };
        out.push_str(&format!("{}{place} {line}\n", "  ".repeat(depth)));
        match &node.kind {
            Kind::Sequence(items) => items.iter().for_each(|item| draw(item, depth + 1, out)),
            Kind::Mapping(entries) => {
                for Entry { key, value } in entries {
                    let place = format!("{}:{}", key.span.line, key.span.column);
                    out.push_str(&format!("{}{place} {}:\n", "  ".repeat(depth + 1), key.value));
                    draw(value, depth + 2, out);
                }
            }
            _ => {}
        }
    }
    let mut reporter = Reporter::default();
    let file = reporter.add_file("a.yaml", text);
    let documents = parse_documents(file, &mut reporter);
    let mut out = String::new();
    documents.iter().flatten().for_each(|document| draw(document, 0, &mut out));
    if let Err(errors) = reporter.finish() {
        out.push_str(&errors.to_string());
    }
    out
}

#[test]
fn nodes_know_where_they_stand() {
    insta::assert_snapshot!(drawn("a:\n  - é: [1_0, \"x y\"]\n    b: ~\nc: {d: 0x1F, e: 'no'}\n"), @r#"
    1:1+1 mapping
      1:1 a:
        2:3+0 list
          2:5+2 mapping
            2:5 é:
              2:8+1 list
                2:9+3 "1_0"
                2:14+5 "x y"
            3:5 b:
              3:8+1 null
      4:1 c:
        4:4+1 mapping
          4:5 d:
            4:8+4 "0x1F"
          4:14 e:
            4:17+4 "no"
    "#);
}

#[test]
fn aliases_and_merges_stand_where_they_are_anchored() {
    insta::assert_snapshot!(drawn("a: &x {k: 1.50}\nb: *x\nc: {<<: *x, l: no}\n"), @r#"
    1:1+1 mapping
      1:1 a:
        1:7+1 mapping
          1:8 k:
            1:11+4 "1.50"
      2:1 b:
        1:7+1 mapping
          1:8 k:
            1:11+4 "1.50"
      3:1 c:
        3:4+1 mapping
          3:13 l:
            3:16+2 "no"
          1:8 k:
            1:11+4 "1.50"
    "#);
}

#[test]
fn keys_that_stand_twice_are_reported_with_those_that_are_no_text() {
    insta::assert_snapshot!(drawn("a: 1\na: 2\n[x]: 3\na: 4\n"), @r#"
    1:1+1 mapping
      1:1 a:
        1:4+1 "1"
    error: key `a` stands twice in this mapping
     --> a.yaml:2:1
      |
    2 | a: 2
      | ^
      = help: remove one of them, or join their values

    error: a key has to be text, found a list
     --> a.yaml:3:1
      |
    3 | [x]: 3
      | ^
      = help: put text that is meant as a value in quotes

    error: key `a` stands twice in this mapping
     --> a.yaml:4:1
      |
    4 | a: 4
      | ^
      = help: remove one of them, or join their values
    "#);
}
