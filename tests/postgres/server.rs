//! A private PostgreSQL server: of the programs that are installed, in a folder of its own, reached by a
//! socket in that folder only, and gone with the process of the test, however that ends.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) struct Server {
    pub(crate) folder: PathBuf,
    /// Held open: when it closes, the server is stopped.
    child: Child,
}

/// Waits for the server, says so, then stops it when nobody is at the other end any more. A line that
/// says `restart` restarts it as after a crash.
const SCRIPT: &str = r#"
trap '' INT HUP TERM
bin=$1; folder=$2; settings=$3
stop() { "$bin/pg_ctl" -D "$folder/data" -m "$1" -w stop >/dev/null 2>&1; }
start() {
    "$bin/pg_ctl" -D "$folder/data" -l "$folder/log" -w -t 120 start \
        -o "-k $folder -c listen_addresses= $settings" >/dev/null 2>&1
}
icu="--locale-provider=icu --icu-locale=en-US"
"$bin/initdb" -D "$folder/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 -N $icu >"$folder/init" 2>&1 \
    || { rm -rf "$folder/data"
         "$bin/initdb" -D "$folder/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 -N >"$folder/init" 2>&1; }
start && echo ready || { cat "$folder/init" "$folder/log" >&2; echo failed; }
while read -r line; do
    if [ "$line" = restart ]; then stop immediate; start && echo ready || echo failed; fi
done
stop immediate
rm -rf "$folder"
"#;

/// For tests: many connections, and nothing is to outlast the machine.
const QUICK: &str =
    "-c max_connections=200 -c fsync=off -c full_page_writes=off -c autovacuum_naptime=5s";

/// The server of this test program. None, after a word about it, where PostgreSQL is not installed; that
/// is not accepted where the environment has `CI=true`.
pub(crate) fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(|| find_programs().map(|programs| Server::start(&programs, QUICK))).as_ref()
}

/// The folder of `postgres`, `initdb` and `pg_ctl`.
fn find_programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // Debian keeps them apart, a folder for each version.
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.map(|version| version.unwrap().path().join("bin")));
    }
    let has_all = |folder: &PathBuf| {
        ["postgres", "initdb", "pg_ctl"].iter().all(|program| folder.join(program).exists())
    };
    let found = folders.into_iter().rev().find(has_all);
    if found.is_none() {
        let missing = "PostgreSQL's server is not installed (Debian's package `postgresql`)";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
        eprintln!("skipped: {missing}");
    }
    found
}

impl Server {
    fn start(programs: &Path, settings: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("stepwell-pg-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        let mut command = unprivileged(&folder);
        let mut child = command
            .args(["sh", "-c", SCRIPT, "sh"])
            .args([programs, &folder])
            .arg(settings)
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until_ready(&mut child);
        Self { folder, child }
    }

    /// The URL of the database that there is.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.folder.display())
    }
}

fn wait_until_ready(child: &mut Child) {
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.as_mut().unwrap());
    output.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "ready", "the server does not start");
}

/// The beginning of a command that runs without the rights of root, which PostgreSQL refuses.
fn unprivileged(folder: &Path) -> Command {
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    if output("id", &["-u"]) != "0" {
        return Command::new("env");
    }
    let user = if output("id", &["-u", "postgres"]).is_empty() { "nobody" } else { "postgres" };
    let group = output("id", &["-g", user]);
    let done = Command::new("chown").arg(format!("{user}:{group}")).arg(folder).status().unwrap();
    assert!(done.success());
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", &group, "--clear-groups", "--"]);
    command
}

/// A server of one test, which may be restarted.
pub(crate) struct Own(Server);

impl Own {
    pub(crate) fn start() -> Option<Self> {
        find_programs().map(|programs| Self(Server::start(&programs, QUICK)))
    }

    /// As it is when it was installed: what it says is written is on the disk.
    #[allow(dead_code, reason = "for the benchmark of what is durable")]
    pub(crate) fn with_the_usual_settings() -> Option<Self> {
        find_programs().map(|programs| Self(Server::start(&programs, "")))
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
        let child = &mut self.0.child;
        child.stdin.as_mut().unwrap().write_all(b"restart\n").unwrap();
        wait_until_ready(child);
    }
}

impl Drop for Own {
    /// Waits, as whoever starts many would else have many.
    fn drop(&mut self) {
        drop(self.0.child.stdin.take());
        let _ = self.0.child.wait();
    }
}
