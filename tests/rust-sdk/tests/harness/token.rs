//! Tokens past the SDK, which neither shows its token nor says when it fetches another.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use super::Server;

/// A test fails rather than hang.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// A token that is used until it is refused, and then is not replaced.
pub(crate) struct Token {
    address: SocketAddr,
    text: String,
}

impl Token {
    /// Fetches one with the admin key.
    pub(crate) fn fetch(server: &Server) -> Self {
        let address = server.address();
        let body = json!({ "api_key": server.admin_key() }).to_string();
        let (status, body) = exchange(address, "POST /api/auth/token", "", &body);
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        let text = answer["token"].as_str().expect("an answer has a token");
        Self {
            address,
            text: text.to_owned(),
        }
    }

    /// The status of a get with this token.
    pub(crate) fn status_of_get(&self, key: &str) -> u16 {
        let header = format!("Authorization: Bearer {}\r\n", self.text);
        let request = format!("GET /api/kv/get/{key}");
        exchange(self.address, &request, &header, "").0
    }
}

/// One request on a connection of its own: the answer's status and body.
fn exchange(address: SocketAddr, request: &str, headers: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(ANSWER_TIME_MAX)).unwrap();
    stream.set_write_timeout(Some(ANSWER_TIME_MAX)).unwrap();
    let length = body.len();
    let message = format!(
        "{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(message.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    let status = head.split(' ').nth(1).expect("a status line");
    (status.parse().unwrap(), body.to_owned())
}
