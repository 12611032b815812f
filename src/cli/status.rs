//! `asof status`.

use std::collections::HashMap;

use serde_json::json;

use super::error::CliError;
use super::online_access::{OnlineAccess, ServerAddress, read_request};
use super::output::{Output, table};
use super::project::Project;
use super::streams::streamed_sources;
use crate::definition::SourceName;
use crate::error::error_chain;
use crate::offline_store::Changed;
use crate::online_store::{OnlineStore, ViewId};
use crate::registry::RegistryVersion;
use crate::serving::pb::feature_store_client::FeatureStoreClient;
use crate::serving::pb::{GetStatusRequest, StreamStatus};
use crate::stream_ingestion::SourceNote;
use crate::time::EventTimestamp;

struct ViewLine {
    name: String,
    table_version: Option<u64>,
    materialized_until: Option<EventTimestamp>,
    online_table_version: Option<u64>,
    /// Whether the online values are not those of the table; of versions that hold the same rows any will do.
    online_is_behind: bool,
    needs_materialization: bool,
    /// Whether jobs compute it; else its stream feeds it.
    is_materialized: bool,
    /// Why its stream does not feed it.
    fault: Option<String>,
}

pub async fn run(project: &Project, output: Output) -> Result<(), CliError> {
    let applied = project.applied().await?;
    let offline_store = project.offline_store()?;
    if let Err(error) = project.settle_streams(&applied, &[]).await {
        eprintln!("warning: some events are not in their tables yet: {}", error_chain(&error));
    }
    let Online { positions, server, streams, faults } = online(project, &applied).await?;
    let mut lines = Vec::new();
    for view in &applied.definitions.feature_views {
        let state = applied.views.get(&view.name);
        let table = offline_store.view_table(&view.name).await?;
        let table = table.filter(|table| table.state().view_id == state.map(|state| state.id));
        let table_state = table.as_ref().map(|table| *table.state());
        let online_table_version = positions(view.name.as_str(), state.map(|state| ViewId(state.id)));
        let online_is_behind = match (&table, online_table_version) {
            (Some(table), Some(online)) if online < table.version() => {
                !matches!(table.changed_since(online).await?, Changed::Nothing)
            }
            (table, online) => table.as_ref().map(|table| table.version()) != online,
        };
        lines.push(ViewLine {
            name: view.name.as_str().to_owned(),
            table_version: table.map(|table| table.version()),
            materialized_until: table_state.and_then(|state| state.materialized_until),
            online_table_version,
            online_is_behind,
            is_materialized: applied.definitions.is_materialized(view),
            fault: faults.get(view.name.as_str()).cloned(),
            needs_materialization: table_state.map(|known| known.data_version) != state.map(|state| state.data_version),
        });
    }
    print_text(project, applied.version, &lines, output);
    print_streams(&streams, output);
    let documents: Vec<_> = lines
        .iter()
        .map(|line| {
            json!({
                "name": line.name,
                "table_version": line.table_version,
                "materialized_until": line.materialized_until.map(|until| until.to_string()),
                "online_table_version": line.online_table_version,
                "online_is_behind": line.online_is_behind,
                "needs_materialization": line.needs_materialization,
                "fault": line.fault,
            })
        })
        .collect();
    output.document(&json!({
        "project": project.settings.project,
        "registry_version": applied.version,
        // Without the token that stands beside them.
        "server": server.map(|server| json!({"grpc": server.grpc, "http": server.http, "process": server.process})),
        "views": documents,
        "streams": streams.iter().map(stream_document).collect::<Vec<_>>(),
    }));
    Ok(())
}

fn print_text(project: &Project, version: u64, lines: &[ViewLine], output: Output) {
    let shown = |version: Option<u64>| version.map_or("-".to_owned(), |version| version.to_string());
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            let note = match (line.table_version, line.needs_materialization) {
                _ if line.fault.is_some() => "not fed by its stream",
                _ if !line.is_materialized => "fed by its stream",
                (None, _) => "never materialized",
                (_, true) => "not from its beginning as it is defined: run `asof materialize`",
                _ if line.online_is_behind => "online store is behind",
                _ => "",
            };
            let until = line.materialized_until.map_or("-".to_owned(), |until| until.to_string());
            let online = shown(line.online_table_version);
            vec![line.name.clone(), shown(line.table_version), until, online, note.to_owned()]
        })
        .collect();
    output.say(format!("project {}, registry version {version}\n", project.settings.project));
    output.say(table(&["feature view", "table version", "materialized until", "online version", ""], &rows));
    for (line, fault) in lines.iter().filter_map(|line| Some((line, line.fault.as_ref()?))) {
        output.say(format!("feature view {} is not fed: {fault}", line.name));
    }
}

fn print_streams(streams: &[StreamStatus], output: Output) {
    if streams.is_empty() {
        return;
    }
    let row = |stream: &StreamStatus| {
        let watermark = stream.watermark.map_or("-".to_owned(), |at| EventTimestamp::from_micros(at).to_string());
        let counts = [stream.accepted, stream.dead_letters, stream.duplicates, stream.late, stream.ignored];
        let lags = [stream.online_lag_records, stream.offline_lag_records];
        let counts = counts.into_iter().chain(lags).map(|count| count.to_string());
        [stream.source.clone(), watermark].into_iter().chain(counts).collect()
    };
    let rows: Vec<Vec<String>> = streams.iter().map(row).collect();
    let header =
        ["stream", "watermark", "accepted", "dead letters", "repeated", "late", "ignored", "lag online", "lag offline"];
    output.say(format!("\n{}", table(&header, &rows)));
    for stream in streams.iter().filter(|stream| !stream.fault.is_empty()) {
        output.say(format!("source {} takes no events: {}", stream.source, stream.fault));
    }
}

fn stream_document(stream: &StreamStatus) -> serde_json::Value {
    json!({
        "source": stream.source,
        "watermark": stream.watermark.map(|at| EventTimestamp::from_micros(at).to_string()),
        "accepted": stream.accepted,
        "dead_letters": stream.dead_letters,
        "duplicates": stream.duplicates,
        "late": stream.late,
        "ignored": stream.ignored,
        "online_lag_records": stream.online_lag_records,
        "offline_lag_records": stream.offline_lag_records,
        "fault": (!stream.fault.is_empty()).then_some(&stream.fault),
    })
}

type Positions = Box<dyn Fn(&str, Option<ViewId>) -> Option<u64>>;

/// What is known of the online store.
struct Online {
    /// The table version that each view's online values stand for.
    positions: Positions,
    /// The server that has the store, if one answers.
    server: Option<ServerAddress>,
    streams: Vec<StreamStatus>,
    /// Why views are not fed by their streams, as a server tells it.
    faults: HashMap<String, String>,
}

/// Read from the store, or from the server that has it.
async fn online(project: &Project, applied: &RegistryVersion) -> Result<Online, CliError> {
    if !project.has_online_store() {
        return Ok(Online {
            positions: Box::new(|_, _| None),
            server: None,
            streams: Vec::new(),
            faults: HashMap::new(),
        });
    }
    match project.online_access().await? {
        OnlineAccess::Store(store) => Ok(Online {
            streams: streamed_sources(&applied.definitions)
                .map(|source| noted_status(source, store.as_ref()))
                .collect::<Result<_, _>>()?,
            positions: Box::new(move |_, id| id.and_then(|id| store.position(id).ok().flatten())),
            server: None,
            faults: HashMap::new(),
        }),
        OnlineAccess::Server(channel) => {
            let request = read_request(GetStatusRequest {});
            let status = FeatureStoreClient::new(channel).get_status(request).await?.into_inner();
            let (views, streams) = (status.views, status.streams);
            let at_fault = views.iter().filter(|view| !view.fault.is_empty());
            let faults = at_fault.map(|view| (view.name.clone(), view.fault.clone())).collect();
            let position = move |name: &str, _| {
                views.iter().find(|view| view.name == name).and_then(|view| view.online_table_version)
            };
            Ok(Online { positions: Box::new(position), server: project.server_address(), streams, faults })
        }
    }
}

/// What the store knows of a stream that nobody has open.
fn noted_status(source: &SourceName, store: &dyn OnlineStore) -> Result<StreamStatus, CliError> {
    let note = SourceNote::read(store, source)?;
    Ok(StreamStatus {
        source: source.as_str().to_owned(),
        watermark: note.watermark,
        accepted: note.accepted,
        dead_letters: note.all_dead_letters(),
        duplicates: note.passed_over.duplicates,
        late: note.passed_over.late,
        ignored: note.passed_over.ignored,
        ..StreamStatus::default()
    })
}
