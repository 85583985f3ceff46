//! Records brought back into a SQLite file in use.

use crate::undelete_scene::{self as scene, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn deleted_account_comes_back_whole_and_nothing_else_changes() {
    let stage = Stage::new().await;
    scene::play(
        &stage.house,
        &stage.place("live.db"),
        &stage.place("spared.db"),
    )
    .await;
}
