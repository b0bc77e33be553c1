//! QEMU's `key=value` option syntax, and JSON in its place, as one tree of values.
//!
//! `driver=qcow2,file.driver=file,file.filename=a,,b` is the tree
//! `{driver: "qcow2", file: {driver: "file", filename: "a,b"}}`: a dot in a key nests, a doubled
//! comma is one comma of the value, keys `0`, `1`, … side by side make a list. All leaves are
//! strings; [`super::props`] gives them their types.
use super::error::SpecError;
use serde_json::{Map, Value};

/// A tree of options.
pub type Options = Map<String, Value>;

/// The deepest nesting a dotted key may ask for.
const DEPTH_MAX: usize = 16;
/// The longest option text, in bytes.
const TEXT_LEN_MAX: usize = 1 << 20;

/// Parses `text` as JSON if it starts with `{`, as `key=value` pairs otherwise.
///
/// `of` names the option in errors; `implied` is the key of a first element without `=`, if the
/// option has one. Later elements without `=` are switches: `name` is `name=on`, `noname` is
/// `name=off` where `switches` lists the name.
///
/// # Errors
///
/// [`SpecError::Syntax`] saying what is wrong with the text.
pub fn parse(
    of: &str,
    text: &str,
    implied: Option<&str>,
    switches: &[&str],
) -> Result<Options, SpecError> {
    if text.len() > TEXT_LEN_MAX {
        return Err(SpecError::syntax(of, format!("the text is {} bytes long", text.len())));
    }
    if text.trim_start().starts_with('{') {
        return match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(_) => Err(SpecError::syntax(of, "the JSON text is not an object")),
            Err(e) => Err(SpecError::syntax(of, format!("invalid JSON: {e}"))),
        };
    }
    let mut tree = Map::new();
    for (i, element) in split(text).into_iter().enumerate() {
        match element.split_once('=') {
            Some((key, value)) if i > 0 || implied.is_none() || is_key(key) => {
                insert(of, &mut tree, key, value)?;
            }
            _ => match implied {
                Some(key) if i == 0 => insert(of, &mut tree, key, &element)?,
                _ => switch(of, &mut tree, &element, switches)?,
            },
        }
    }
    tree.into_iter().map(|(key, value)| Ok((key, lists(of, value)?))).collect()
}

/// Splits at single commas; a doubled comma stands for one that belongs to the text.
#[must_use]
pub fn split(text: &str) -> Vec<String> {
    let mut elements = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.peek() != Some(&',') {
            elements.push(String::new());
            continue;
        }
        if c == ',' {
            chars.next();
        }
        if let Some(last) = elements.last_mut() {
            last.push(c);
        }
    }
    // A trailing comma is harmless, and so is an empty text.
    if elements.last().is_some_and(String::is_empty) {
        elements.pop();
    }
    elements
}

/// Doubles the commas of a value so that [`split`] gives it back.
#[must_use]
pub fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

fn is_key(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn switch(of: &str, tree: &mut Options, element: &str, switches: &[&str]) -> Result<(), SpecError> {
    if switches.contains(&element) {
        return insert(of, tree, element, "on");
    }
    match element.strip_prefix("no").filter(|name| switches.contains(name)) {
        Some(name) => insert(of, tree, name, "off"),
        None if element.is_empty() => Err(SpecError::syntax(of, "an element is empty: ',,'?")),
        None => Err(SpecError::NoValue { of: of.to_owned(), name: element.to_owned() }),
    }
}

fn insert(of: &str, tree: &mut Options, key: &str, value: &str) -> Result<(), SpecError> {
    if !is_key(key) {
        return Err(SpecError::syntax(of, format!("'{key}' is not a key")));
    }
    let parts: Vec<&str> = key.split('.').collect();
    if parts.len() > DEPTH_MAX {
        return Err(SpecError::syntax(of, format!("key '{key}' nests deeper than {DEPTH_MAX}")));
    }
    let (last, parents) = parts.split_last().unwrap_or((&key, &[]));
    if parts.iter().any(|part| part.is_empty()) {
        return Err(SpecError::syntax(of, format!("key '{key}' has an empty part")));
    }
    let mut map = tree;
    for part in parents {
        let entry = map.entry(*part).or_insert_with(|| Value::Object(Map::new()));
        map = entry.as_object_mut().ok_or_else(|| {
            SpecError::syntax(of, format!("'{part}' is given both as a value and as '{part}.…'"))
        })?;
    }
    if map.contains_key(*last) {
        return Err(SpecError::syntax(of, format!("'{key}' is given twice")));
    }
    map.insert((*last).to_owned(), Value::String(value.to_owned()));
    Ok(())
}

/// Turns maps whose keys are 0, 1, …, n-1 into lists, at every level.
fn lists(of: &str, value: Value) -> Result<Value, SpecError> {
    let Value::Object(map) = value else { return Ok(value) };
    let indexed = !map.is_empty() && map.keys().all(|k| k.bytes().all(|b| b.is_ascii_digit()));
    if !indexed {
        let map: Result<Options, SpecError> =
            map.into_iter().map(|(key, value)| Ok((key, lists(of, value)?))).collect();
        return Ok(Value::Object(map?));
    }
    let mut items = Vec::with_capacity(map.len());
    let mut map = map;
    for i in 0..map.len() {
        let item = map.remove(&i.to_string()).ok_or_else(|| {
            SpecError::syntax(of, format!("a list lacks element {i}: number them 0, 1, 2, …"))
        })?;
        items.push(lists(of, item)?);
    }
    Ok(Value::Array(items))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn tree(text: &str) -> Value {
        Value::Object(parse("--blockdev", text, Some("driver"), &["server"]).unwrap())
    }

    fn error(text: &str) -> String {
        parse("--blockdev", text, Some("driver"), &["server"]).unwrap_err().to_string()
    }

    #[test]
    fn dots_nest_commas_escape_and_numbers_make_lists() {
        assert_eq!(
            tree("qcow2,node-name=d,file.driver=file,file.filename=a,,b=c"),
            json!({"driver": "qcow2", "node-name": "d",
                   "file": {"driver": "file", "filename": "a,b=c"}})
        );
        assert_eq!(tree("m.0.x=1,m.1.x=2"), json!({"m": [{"x": "1"}, {"x": "2"}]}));
        assert_eq!(tree("x,server,noserver-x=1")["server"], "on");
        assert_eq!(tree("x,noserver")["server"], "off");
        assert_eq!(tree(r#"{"driver": "raw", "size": 5}"#), json!({"driver": "raw", "size": 5}));
        assert_eq!(tree(""), json!({}));
        assert_eq!(tree("x="), json!({"x": ""}));
    }

    #[test]
    fn faults_are_named() {
        assert!(error("raw,size").contains("'size' has no value"));
        assert!(error("raw,a=1,a=2").contains("'a' is given twice"));
        assert!(error("raw,a=1,a.b=2").contains("both as a value"));
        assert!(error("raw,a..b=2").contains("empty part"));
        assert!(error("raw,m.0=1,m.2=1").contains("lacks element 1"));
        assert!(error("{\"a\": ").contains("invalid JSON"));
        assert!(error(&format!("raw,{}x=1", "a.".repeat(40))).contains("deeper than"));
    }

    #[test]
    fn a_first_element_that_is_no_key_is_the_implied_value_even_with_an_equals_sign() {
        let options = parse("--disk", "/tmp/a=b.raw,queues=2", Some("file"), &[]).unwrap();
        assert_eq!(Value::Object(options), json!({"file": "/tmp/a=b.raw", "queues": "2"}));
    }

    proptest! {
        #[test]
        fn escaped_values_come_back(value in "[a-z,=. /]{0,40}") {
            let text = format!("k={}", escape(&value));
            let options = parse("x", &text, None, &[]).unwrap();
            prop_assert_eq!(options.get("k"), Some(&Value::String(value)));
        }

        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = parse("x", &text, Some("driver"), &["server"]);
        }
    }
}
