//! A private PostgreSQL server: of the programs that are installed, in a folder of its own, reached by a
//! socket in that folder only, and gone with the process that started it, however that ends. The tests
//! use it, too.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

pub(crate) struct Server {
    pub(crate) folder: PathBuf,
    /// When nobody is at the other end of its input any more, the server is stopped.
    pub(crate) script: Child,
}

/// What is said where there is none.
pub(crate) const MISSING: &str =
    "PostgreSQL's server is not installed (Debian's package `postgresql`)";

/// Waits for the server, says so, then stops it when nobody is at the other end any more. A line that
/// says `restart` restarts it as after a crash.
const SCRIPT: &str = r#"
trap '' INT HUP TERM
bin=$1; folder=$2; settings=$3
stop() { "$bin/pg_ctl" -D "$folder/data" -m immediate -w stop >/dev/null 2>&1; }
start() {
    "$bin/pg_ctl" -D "$folder/data" -l "$folder/log" -w -t 120 start \
        -o "-k $folder -c listen_addresses= $settings" >/dev/null 2>&1
}
init() {
    "$bin/initdb" -D "$folder/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 -N "$@" \
        >"$folder/init" 2>&1
}
# Not every build knows ICU.
init --locale-provider=icu --icu-locale=en-US || { rm -rf "$folder/data"; init; }
start && echo ready || { cat "$folder/init" "$folder/log" >&2; echo failed; }
while read -r line; do
    if [ "$line" = restart ]; then stop; start && echo ready || echo failed; fi
done
stop
rm -rf "$folder"
"#;

impl Server {
    /// With these settings, as `postgres` takes them. None where PostgreSQL is not installed.
    pub(crate) fn start(name: &str, settings: &str) -> Result<Option<Self>> {
        let Some(programs) = find_programs() else { return Ok(None) };
        let folder = std::env::temp_dir().join(format!("stepwell-{name}-{}", std::process::id()));
        // Of a process that was killed, and had this number before.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder)?;
        let script = unprivileged(&folder)?
            .args(["sh", "-c", SCRIPT, "sh"])
            .args([&programs, &folder])
            .arg(settings)
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut server = Self { folder, script };
        server.wait_until_ready()?;
        Ok(Some(server))
    }

    pub(crate) fn wait_until_ready(&mut self) -> Result<()> {
        let said = self.script.stdout.as_mut().ok_or("it says nothing")?;
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        if line.trim() == "ready" { Ok(()) } else { Err("the server does not start".into()) }
    }

    /// The URL of the database that there is.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.folder.display())
    }
}

impl Drop for Server {
    /// Waits, as whoever starts many would else have many.
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

/// The folder of `postgres`, `initdb` and `pg_ctl`.
fn find_programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // Debian keeps them apart, a folder for each version.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    folders.extend(versions.map(|version| version.path().join("bin")));
    let has_all = |folder: &PathBuf| {
        ["postgres", "initdb", "pg_ctl"].iter().all(|program| folder.join(program).exists())
    };
    folders.into_iter().rev().find(has_all)
}

/// The beginning of a command without the rights of root, which PostgreSQL refuses.
fn unprivileged(folder: &Path) -> Result<Command> {
    let id = |arguments: &[&str]| -> Result<String> {
        let output = Command::new("id").args(arguments).output()?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    if id(&["-u"])? != "0" {
        return Ok(Command::new("env"));
    }
    let user = if id(&["-u", "postgres"])?.is_empty() { "nobody" } else { "postgres" };
    let group = id(&["-g", user])?;
    let done = Command::new("chown").arg(format!("{user}:{group}")).arg(folder).status()?;
    if !done.success() {
        return Err(format!("{} cannot be given to {user}", folder.display()).into());
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", &group, "--clear-groups", "--"]);
    Ok(command)
}
