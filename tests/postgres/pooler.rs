//! A proxy that pools by transactions, as PgBouncer does: behind it no two transactions need be in the
//! same session of the server.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use futures::{FutureExt, StreamExt};
use stepwell::storage::{Parameter, Statement, StepWrites};

use super::engines::World;
use super::*;

/// One per test program; its threads end with it.
fn pooler() -> Option<&'static Path> {
    static POOLER: OnceLock<PathBuf> = OnceLock::new();
    let server = server()?;
    let start = || {
        let folder = server.folder.join("pooler");
        std::fs::create_dir(&folder).unwrap();
        // Who removes it in the end is not who runs the tests.
        std::fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        let listener = UnixListener::bind(folder.join(".s.PGSQL.5432")).unwrap();
        let socket = server.folder.join(".s.PGSQL.5432");
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let socket = socket.clone();
                // A client or a server that goes away ends it.
                std::thread::spawn(move || serve(client.unwrap(), &socket));
            }
        });
        folder
    };
    Some(POOLER.get_or_init(start))
}

pub(crate) fn url() -> Option<String> {
    Some(format!("postgres://postgres@localhost/postgres?host={}", pooler()?.display()))
}

/// One client and two sessions, which take its transactions in turn.
fn serve(mut client: UnixStream, socket: &Path) -> std::io::Result<()> {
    let startup = rest(&mut client, Vec::new())?;
    let mut greeting = Vec::new();
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let mut session = UnixStream::connect(socket)?;
        session.write_all(&startup)?;
        greeting = until_ready(&mut session)?.0;
        sessions.push(session);
    }
    client.write_all(&greeting)?;
    loop {
        for session in &mut sessions {
            // Until the transaction is over.
            while !exchange(&mut client, session)? {}
        }
    }
}

/// Sends what a client says until it waits, and gives it the answers; whether no transaction is open.
fn exchange(client: &mut UnixStream, session: &mut UnixStream) -> std::io::Result<bool> {
    loop {
        let message = message(client)?;
        session.write_all(&message)?;
        if matches!(message[0], b'S' | b'Q') {
            let (answers, idle) = until_ready(session)?;
            client.write_all(&answers)?;
            return Ok(idle);
        }
    }
}

fn until_ready(session: &mut UnixStream) -> std::io::Result<(Vec<u8>, bool)> {
    let mut all = Vec::new();
    loop {
        let message = message(session)?;
        all.extend_from_slice(&message);
        if message[0] == b'Z' {
            return Ok((all, message[5] == b'I'));
        }
    }
}

/// A letter, a length that counts itself, and so much.
fn message(from: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut kind = [0];
    from.read_exact(&mut kind)?;
    rest(from, kind.into())
}

fn rest(from: &mut UnixStream, mut message: Vec<u8>) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    message.extend_from_slice(&length);
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    from.read_exact(&mut body)?;
    message.append(&mut body);
    Ok(message)
}

mod contract {
    stepwell::storage_conformance!(super::InSchemas::pooled());
}

#[test]
fn who_counts_on_a_session_is_found_out_by_this_proxy() {
    let (Some(server), Some(url)) = (server(), url()) else { return };
    let options = PostgresOptions::new().schema(fresh("found_out"));
    block_on(block_on(options.clone().connect(&server.url())).unwrap().migrate()).unwrap();
    assert!(block_on(options.connect(&url)).is_err(), "its prepared statements are elsewhere");
}

#[test]
fn nothing_is_left_in_a_session_that_has_served_a_storage() {
    let Some(server) = server() else { return };
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1);
    let pool = pool.connect_lazy(&server.url()).unwrap();
    let options = PostgresOptions::new().schema(fresh("left")).behind_a_pooler();
    let storage = block_on(options.with_pool(pool.clone())).unwrap();
    block_on(storage.migrate()).unwrap();
    create(&storage, "r");
    write(&storage, "r", commit(A, 0, vec![started()])).unwrap();
    let table = fresh("left_rows");
    let texts = ["CREATE TABLE {} (a int, b bytea)", "INSERT INTO {} VALUES ($1, NULL)"];
    let [make, fill] = texts.map(|text| Statement::new(text.replace("{}", &table)));
    let statements = [make, fill.bind(Parameter::Null)].into();
    let writes = [StepWrites { step: StepKey::root(0), statements }];
    let writes = Commit { writes: Some(writes.into()), ..commit(A, 1, Vec::new()) };
    write(&storage, "r", writes).unwrap();
    alive(&storage, A);
    assert_eq!(load(&storage, "r").journal, [started()]);
    let left = "SELECT (SELECT count(*) FROM pg_prepared_statements),
                  (SELECT count(*) FROM pg_settings WHERE source = 'session' AND name <> 'TimeZone'),
                  (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())";
    // Asked without preparing anything.
    let row = block_on(sqlx::raw_sql(left).fetch_one(&pool)).unwrap();
    let left: [i64; 3] = [0, 1, 2].map(|column| sqlx::Row::get_unchecked(&row, column));
    assert_eq!(left, [0, 0, 0]);
}

#[test]
fn engines_share_runs_behind_a_pooler_and_find_by_asking_what_others_say() {
    let (Some(server), Some(address)) = (server(), url()) else { return };
    let options = PostgresOptions::new().schema(fresh("engines"));
    let direct = block_on(options.clone().connect(&server.url())).unwrap();
    block_on(direct.migrate()).unwrap();
    let lease = Duration::from_millis(1_500);
    let options = options.behind_a_pooler().connections(5);
    let world = World::new(direct, &options, &[address.clone(), address], lease);
    // Nobody tells them.
    let storage = block_on(options.connect(&url().unwrap())).unwrap();
    assert!(storage.news(A).next().now_or_never().is_none());
    world.goes_on(|serving| {
        world.let_work(40);
        // The other has to find that out, and does all the rest.
        serving.remove(0).crash();
        world.let_work(60);
    });
}
