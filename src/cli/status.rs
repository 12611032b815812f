//! `asof status`.

use serde_json::json;

use super::error::CliError;
use super::online_access::{OnlineAccess, ServerAddress, read_request};
use super::output::{Output, table};
use super::project::Project;
use crate::online_store::ViewId;
use crate::serving::pb::GetStatusRequest;
use crate::serving::pb::feature_store_client::FeatureStoreClient;
use crate::time::EventTimestamp;

struct ViewLine {
    name: String,
    table_version: Option<u64>,
    materialized_until: Option<EventTimestamp>,
    online_table_version: Option<u64>,
    needs_materialization: bool,
}

pub async fn run(project: &Project, output: Output) -> Result<(), CliError> {
    let applied = project.applied().await?;
    let offline_store = project.offline_store()?;
    let Online { positions, server } = online(project).await?;
    let mut lines = Vec::new();
    for view in &applied.definitions.feature_views {
        let state = applied.views.get(&view.name);
        let table = offline_store.view_table(&view.name).await?;
        let table = table.filter(|table| table.state().view_id == state.map(|state| state.id));
        let table_state = table.as_ref().map(|table| *table.state());
        lines.push(ViewLine {
            name: view.name.as_str().to_owned(),
            table_version: table.map(|table| table.version()),
            materialized_until: table_state.and_then(|state| state.materialized_until),
            online_table_version: positions(view.name.as_str(), state.map(|state| ViewId(state.id))),
            needs_materialization: table_state.map(|known| known.data_version) != state.map(|state| state.data_version),
        });
    }
    print_text(project, applied.version, &lines, output);
    let documents: Vec<_> = lines
        .iter()
        .map(|line| {
            json!({
                "name": line.name,
                "table_version": line.table_version,
                "materialized_until": line.materialized_until.map(|until| until.to_string()),
                "online_table_version": line.online_table_version,
                "needs_materialization": line.needs_materialization,
            })
        })
        .collect();
    output.document(&json!({
        "project": project.settings.project,
        "registry_version": applied.version,
        "server": server,
        "views": documents,
    }));
    Ok(())
}

fn print_text(project: &Project, version: u64, lines: &[ViewLine], output: Output) {
    let shown = |version: Option<u64>| version.map_or("-".to_owned(), |version| version.to_string());
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            let note = match (line.table_version, line.needs_materialization) {
                (None, _) => "never materialized",
                (_, true) => "changed: run `asof materialize`",
                _ if line.online_table_version != line.table_version => "online store is behind",
                _ => "",
            };
            let until = line.materialized_until.map_or("-".to_owned(), |until| until.to_string());
            let online = shown(line.online_table_version);
            vec![line.name.clone(), shown(line.table_version), until, online, note.to_owned()]
        })
        .collect();
    output.say(format!("project {}, registry version {version}\n", project.settings.project));
    output.say(table(&["feature view", "table version", "materialized until", "online version", ""], &rows));
}

type Positions = Box<dyn Fn(&str, Option<ViewId>) -> Option<u64>>;

/// What is known of the online store.
struct Online {
    /// The table version that each view's online values stand for.
    positions: Positions,
    /// The server that has the store, if one answers.
    server: Option<ServerAddress>,
}

/// Read from the store, or from the server that has it.
async fn online(project: &Project) -> Result<Online, CliError> {
    if !project.has_online_store() {
        return Ok(Online { positions: Box::new(|_, _| None), server: None });
    }
    match project.online_access().await? {
        OnlineAccess::Store(store) => Ok(Online {
            positions: Box::new(move |_, id| id.and_then(|id| store.position(id).ok().flatten())),
            server: None,
        }),
        OnlineAccess::Server(channel) => {
            let request = read_request(GetStatusRequest {});
            let status = FeatureStoreClient::new(channel).get_status(request).await?.into_inner();
            let position = move |name: &str, _| {
                status.views.iter().find(|view| view.name == name).and_then(|view| view.online_table_version)
            };
            Ok(Online { positions: Box::new(position), server: project.server_address() })
        }
    }
}
