//! Records brought back into PostgreSQL and MariaDB in use.

use std::sync::Arc;

use crate::undelete_scene::{self as scene, Place, Stage};
use crate::{mysql_server, postgres_server};

#[tokio::test(flavor = "multi_thread")]
async fn deleted_account_comes_back_whole_in_postgres() {
    let Some(server) = postgres_server::Server::shared() else {
        return;
    };
    server.create("undelete_live");
    server.create("undelete_spared");
    let place = |name: &str| Place::Postgres(server.clone(), name.into());
    let stage = Stage::new().await;
    scene::play(
        &stage.house,
        &place("undelete_live"),
        &place("undelete_spared"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_account_comes_back_whole_in_mariadb() {
    let server: Arc<mysql_server::Server> = mysql_server::shared();
    server.fresh("undelete_live", "");
    server.fresh("undelete_spared", "");
    let place = |name: &str| Place::Mysql(server.clone(), name.into());
    let stage = Stage::new().await;
    scene::play(
        &stage.house,
        &place("undelete_live"),
        &place("undelete_spared"),
    )
    .await;
}
