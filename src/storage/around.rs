//! Storages around others.

#[cfg(feature = "testing")]
use crate::id::RunId;

/// The methods of [`Storage`](crate::storage::Storage) for a type that has a method `call`, which is
/// given the name of each and what it is to do with the storage inside: now, or, where that is to be
/// `owned`, whenever it likes.
macro_rules! around_storage {
    () => {
        $crate::storage::around::around_storage!(lent);
    };
    ($how:ident) => {
        $crate::storage::around::around_storage! {
            $how;
            fn create(run: $crate::storage::NewRun) -> $crate::storage::Created;
            fn commit(
                run: &$crate::id::RunId,
                commit: $crate::storage::Commit
            ) -> Vec<$crate::journal::Recorded>;
            fn load(run: &$crate::id::RunId) -> Option<$crate::storage::StoredRun>;
            fn events(
                run: &$crate::id::RunId,
                from: u64,
                limit: usize
            ) -> Vec<(u64, $crate::journal::Recorded)>;
            fn post(run: &$crate::id::RunId, message: $crate::storage::Message) -> u64;
            fn inbox(run: &$crate::id::RunId) -> Vec<(u64, $crate::storage::Message)>;
            fn answer(run: &$crate::id::RunId, number: u64) -> Option<$crate::storage::Answer>;
            fn acquire(
                run: &$crate::id::RunId,
                asked: $crate::storage::Acquire
            ) -> Option<$crate::storage::Denied>;
            fn beat(owner: $crate::storage::Owner) -> Vec<$crate::storage::Beat>;
            fn retire(owner: $crate::storage::Owner) -> ();
            fn mail(owner: $crate::storage::Owner, limit: usize) -> Vec<$crate::id::RunId>;
            fn held(
                owner: $crate::storage::Owner,
                after: Option<$crate::id::RunId>,
                limit: usize
            ) -> Vec<$crate::id::RunId>;
            fn claim(claim: $crate::storage::Claim) -> Vec<$crate::storage::Claimed>;
            fn set_aside(
                run: &$crate::id::RunId,
                owner: $crate::storage::Owner,
                until: $crate::time::Timestamp,
                why: String
            ) -> ();
            fn next_due() -> Option<$crate::time::Timestamp>;
            fn list(query: $crate::storage::RunQuery) -> Vec<$crate::storage::Summary>;
            fn purge(which: $crate::storage::Purge) -> Vec<$crate::id::RunId>;
            fn clear(
                owner: $crate::storage::Owner,
                runs: Vec<$crate::id::RunId>
            ) -> ();
        }
    };
    (lent; $(fn $method:ident($($name:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(
            #[inline]
            fn $method(
                &self,
                $($name: $type),*
            ) -> $crate::storage::Reply<$crate::error::Result<$answer>> {
                self.call(stringify!($method), |storage| storage.$method($($name),*))
            }
        )*
    };
    (owned; $(fn $method:ident($($name:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(
            #[allow(clippy::clone_on_copy)]
            fn $method(
                &self,
                $($name: $type),*
            ) -> $crate::storage::Reply<$crate::error::Result<$answer>> {
                $(let $name = $name.clone();)*
                self.call(stringify!($method), move |storage| {
                    storage.$method($($crate::storage::around::Given::given(&$name)),*)
                })
            }
        )*
    };
}
pub(crate) use around_storage;

/// An argument that is kept, as the method takes it.
#[cfg(feature = "testing")]
pub(crate) trait Given<'a, A> {
    fn given(&'a self) -> A;
}

#[cfg(feature = "testing")]
impl<'a> Given<'a, &'a Self> for RunId {
    fn given(&'a self) -> &'a Self {
        self
    }
}

#[cfg(feature = "testing")]
impl<T: Clone> Given<'_, T> for T {
    fn given(&self) -> T {
        self.clone()
    }
}
