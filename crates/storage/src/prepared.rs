//! Statements that Postgres parses once for a connection.

use diesel::QueryResult;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};

/// A statement whose text is always the same. diesel keeps no prepared statement of an UPDATE nor of SQL that is written out, since their
/// text may differ each time: that costs a round trip, and Postgres parses and plans it anew.
pub(crate) struct Kept<T>(pub(crate) T);

impl<T: QueryFragment<Pg>> QueryFragment<Pg> for Kept<T> {
    fn walk_ast<'b>(&'b self, pass: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.0.walk_ast(pass)
    }

    fn is_safe_to_cache_prepared(&self, _: &Pg) -> QueryResult<bool> {
        Ok(true)
    }
}

impl<T> QueryId for Kept<T> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<T: Query> Query for Kept<T> {
    type SqlType = T::SqlType;
}
