//! What the operator reads when a server starts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::Config;
use crate::logging;

/// The port is open; the store is being loaded.
pub(super) fn listening(address: SocketAddr, config: &Config) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        %address,
        data_dir = %config.data_dir.display(),
        durability = config.durability_text(),
        "listening, loading the store"
    );
}

/// The store is loaded. A key that this start made is shown this once, and kept in the data dir; it is in no line
/// of the log.
pub(super) fn ready(address: SocketAddr, new_admin_key: Option<&str>) {
    tracing::info!(%address, "ready");
    if let Some(key) = new_admin_key {
        logging::print(&welcome(address, key));
    }
}

/// The admin key and a first session to paste.
fn welcome(address: SocketAddr, key: &str) -> String {
    let url = format!("http://{}", reachable(address));
    format!(
        "\n\
         This is the admin key. It is shown once and kept in the file admin-key of the data dir:\n\
         \n\
         \x20   {key}\n\
         \n\
         A first session, to paste into a shell:\n\
         \n\
         TOKEN=$(curl -s {url}/api/auth/token -d '{{\"api_key\":\"{key}\"}}' | cut -d '\"' -f 4)\n\
         curl -X POST {url}/api/kv/set/hello -H \"Authorization: Bearer $TOKEN\" \
         -d '{{\"value\":\"world\"}}'\n\
         curl {url}/api/kv/get/hello -H \"Authorization: Bearer $TOKEN\"\n\
         \n"
    )
}

/// An address that a client on this machine can connect to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_welcome_names_an_address_to_connect_to() {
        for (bound, shown) in [
            ("0.0.0.0:8080", "http://127.0.0.1:8080/"),
            ("[::]:1", "http://[::1]:1/"),
            ("192.0.2.7:80", "http://192.0.2.7:80/"),
        ] {
            let text = welcome(bound.parse().unwrap(), "KEY");
            assert!(text.contains(shown), "{text}");
            assert!(text.contains(r#"-d '{"api_key":"KEY"}'"#), "{text}");
        }
    }
}
