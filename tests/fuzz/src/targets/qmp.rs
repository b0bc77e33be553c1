//! What a peer may say to the monitor.

use spindle::monitor::rehearse;

/// What messages are made of.
pub(super) const WORDS: &[&str] = &[
    "{\"execute\":\"",
    "\"arguments\":{",
    "\"id\":",
    "qmp_capabilities",
    "query-status",
    "blockdev-add",
    "x-fault-add",
    "block_resize",
    "query-commands",
    "\"node-name\":\"",
    "\"driver\":\"",
    "\"}",
    "{",
    "}",
    "[",
    "]",
    "\\u0000",
    "\"",
    ",",
    "1e999",
    "null",
    "\r\n",
    "exec-oob",
];

const HELLO: &str = "{\"execute\":\"qmp_capabilities\"}";

pub(super) fn seeds() -> Vec<Vec<u8>> {
    [
        "{\"execute\":\"query-status\",\"id\":7}",
        "{\"execute\":\"blockdev-add\",\"arguments\":{\"driver\":\"qcow2\",\"node-name\":\"q\",\
         \"file\":{\"driver\":\"file\",\"filename\":\"a\"}}}",
        "{\"execute\":\"x-fault-add\",\"arguments\":{\"node-name\":\"f\",\"op\":\"read\",\
         \"action\":\"delay\",\"delay-ns\":5,\"offset\":512}}",
        "{\"execute\":\"block_resize\",\"arguments\":{\"device\":\"d\",\"size\":1048576}}",
        "{\"execute\":\"query-blockstats\",\"arguments\":{\"query-nodes\":true}}\n{\"execute\":\
         \"stop\"}{\"execute\":\"cont\"}",
        "garbage {\"execute\": [\"\\\"}{\"]} {\"a\":{\"b\":{}}}",
    ]
    .map(|text| format!("{HELLO}\r\n{text}\r\n").into_bytes())
    .to_vec()
}

/// Every answer is a line of JSON, and says what it is.
pub(super) fn run(data: &[u8]) {
    let said = rehearse(data);
    for line in said.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let value: serde_json::Value = serde_json::from_slice(line).expect("a line of JSON");
        let known = ["QMP", "return", "error"].iter().any(|key| value.get(key).is_some());
        assert!(known, "{value}");
    }
}
