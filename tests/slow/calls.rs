//! The methods of a storage around another, sorted into those that read and those that write.

/// For a type with methods `read` and `write`, which are given what to do with the storage inside.
macro_rules! reads_and_writes {
    () => {
        reads_and_writes! {
            write create(run: NewRun) -> Created;
            write commit(&run, commit: Commit) -> Vec<Recorded>;
            read load(&run) -> Option<StoredRun>;
            read events(&run, from: u64, limit: usize) -> Vec<(u64, Recorded)>;
            write post(&run, message: Message) -> u64;
            read inbox(&run) -> Vec<(u64, Message)>;
            read answer(&run, number: u64) -> Option<Answer>;
            write acquire(&run, asked: Acquire) -> Option<Denied>;
            write beat(owner: Owner) -> Vec<Beat>;
            write retire(owner: Owner) -> ();
            read mail(owner: Owner, limit: usize) -> Vec<RunId>;
            read held(owner: Owner, after: Option<RunId>, limit: usize) -> Vec<RunId>;
            write claim(claim: Claim) -> Vec<Claimed>;
            write set_aside(&run, owner: Owner, until: Timestamp, why: String) -> ();
            read next_due() -> Option<Timestamp>;
            read list(query: RunQuery) -> Vec<Summary>;
            write purge(which: Purge) -> Vec<RunId>;
            write clear(owner: Owner, runs: Vec<RunId>) -> ();
        }
    };
    ($($how:ident $method:ident($(&$run:ident $(,)?)? $($name:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(
            fn $method(&self, $($run: &RunId,)? $($name: $type),*) -> Reply<Result<$answer>> {
                $(let $run = $run.clone();)?
                self.$how(move |storage| storage.$method($(&$run,)? $($name),*))
            }
        )*
    };
}
pub(crate) use reads_and_writes;
