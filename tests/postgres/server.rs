//! PostgreSQL servers for tests: one that all tests of a program share, and those of one test.

use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

#[path = "../../examples/many_engines/server.rs"]
mod private;

pub(crate) use private::Server;

/// For tests: many connections, and nothing is to outlast the machine.
const QUICK: &str =
    "-c max_connections=200 -c fsync=off -c full_page_writes=off -c autovacuum_naptime=5s";

/// The server of this test program. None, after a word about it, where PostgreSQL is not installed; that
/// is not accepted where the environment has `CI=true`.
pub(crate) fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(|| start(QUICK)).as_ref()
}

fn start(settings: &str) -> Option<Server> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let server = Server::start(&format!("pg{number}"), settings).unwrap();
    if server.is_none() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{}", private::MISSING);
        eprintln!("skipped: {}", private::MISSING);
    }
    server
}

/// A server of one test, which may be restarted.
pub(crate) struct Own(Server);

impl Own {
    pub(crate) fn start() -> Option<Self> {
        start(QUICK).map(Self)
    }

    /// As it is when it was installed: what it says is written is on the disk.
    #[allow(dead_code, reason = "for the benchmark of what is durable")]
    pub(crate) fn with_the_usual_settings() -> Option<Self> {
        start("").map(Self)
    }

    pub(crate) fn url(&self) -> String {
        self.0.url()
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.folder.join(".s.PGSQL.5432")
    }

    /// As after a crash: connections are cut, and what was not committed is gone.
    pub(crate) fn restart(&mut self) {
        self.0.script.stdin.as_mut().unwrap().write_all(b"restart\n").unwrap();
        self.0.wait_until_ready().unwrap();
    }
}
