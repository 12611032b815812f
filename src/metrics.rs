//! What a process tells about itself: the recorder behind `/metrics`, and the names of what is recorded.

use std::time::Duration;

use metrics::{describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::time::EventTimestamp;

/// Answered requests, by `method` and `code`.
pub const REQUESTS_TOTAL: &str = "asof_requests_total";
/// From a request's arrival to the last byte of its answer, by `method`.
pub const REQUEST_LATENCY_SECONDS: &str = "asof_request_latency_seconds";
/// The parts of an online request's time, by `stage`: `wait` for a thread, `decode` of the message, `read` of the
/// store with what is computed of it, `encode` of the answer.
pub const REQUEST_STAGE_SECONDS: &str = "asof_request_stage_seconds";
/// How old the values of an online answer are, of the first row of each view, by `view`.
pub const FEATURE_AGE_SECONDS: &str = "asof_feature_age_seconds";
/// Rows of each online request.
pub const ONLINE_REQUEST_ROWS: &str = "asof_online_request_rows";
/// Rows looked for in the cache of rows, by `outcome`: `hit` or `miss`.
pub const ROW_CACHE_READS_TOTAL: &str = "asof_row_cache_reads_total";
/// Bytes of rows in the cache of rows, about.
pub const ROW_CACHE_BYTES: &str = "asof_row_cache_bytes";
/// What the online store tells of its size and state, by `what`.
pub const ONLINE_STORE: &str = "asof_online_store";
/// Sums of integers that no `int64` is, answered as null, by `answer`: `batch` or `online`.
pub const SUMS_OUT_OF_RANGE_TOTAL: &str = "asof_sums_out_of_range_total";
/// Rows of streams that are in the online store, by `source`.
pub const STREAM_APPLIED_ROWS_TOTAL: &str = "asof_stream_applied_rows_total";
/// What became of the rows that came in, by `source` and `outcome`: `accepted`, `duplicate`, `late`, `ignored` or
/// `dead_letter` (those that are late among them).
pub const STREAM_ROWS_TOTAL: &str = "asof_stream_rows_total";
/// From an event's arrival to its being visible online.
pub const STREAM_FRESHNESS_SECONDS: &str = "asof_stream_freshness_seconds";
/// Records of the log that are not in the store yet, by `store`: `online` or `offline`.
pub const STREAM_LAG_RECORDS: &str = "asof_stream_lag_records";
/// Bytes of events that wait to be in both stores.
pub const STREAM_PENDING_BYTES: &str = "asof_stream_pending_bytes";
/// The greatest event timestamp accepted so far, since the Unix epoch, by `source`.
pub const STREAM_WATERMARK_SECONDS: &str = "asof_stream_watermark_seconds";
/// Predictions made, by `route`, `model` and `role`.
pub const PREDICTIONS_TOTAL: &str = "asof_predictions_total";
/// Rows for the prediction log, by `role`.
pub const PREDICTION_LOG_ROWS_TOTAL: &str = "asof_prediction_log_rows_total";
/// Rows that nobody waited for and that the log's queue had no place for.
pub const PREDICTION_LOG_DROPPED_TOTAL: &str = "asof_prediction_log_dropped_total";
/// What became of the rows that a shadow was to see, by `route`, `shadow` and `outcome`: `done`, `dropped` or `failed`.
pub const SHADOW_ROWS_TOTAL: &str = "asof_shadow_rows_total";
/// Spans of traced requests, by `outcome`: `sent` or `dropped`.
pub const TRACE_SPANS_TOTAL: &str = "asof_trace_spans_total";
const BUILD_INFO: &str = "asof_build_info";
const PROCESS_START_TIME_SECONDS: &str = "process_start_time_seconds";
const PROCESS_RESIDENT_MEMORY_BYTES: &str = "process_resident_memory_bytes";
const PROCESS_CPU_SECONDS_TOTAL: &str = "process_cpu_seconds_total";
const PROCESS_OPEN_FDS: &str = "process_open_fds";

const LATENCY_BUCKETS: [f64; 17] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0];
const STAGE_BUCKETS: [f64; 12] =
    [0.000_002, 0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.0001, 0.0002, 0.0005, 0.001, 0.005, 0.02, 0.1];
const AGE_BUCKETS: [f64; 10] =
    [1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0, 31_536_000.0];
const ROWS_BUCKETS: [f64; 7] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 10_000.0];

/// How often what was recorded is put into its buckets; between times it takes memory.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Everything that this process has recorded.
#[derive(Debug, Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Makes a recorder that of the process, which started at `start`.
    ///
    /// A second one in a process, as tests have, records nothing.
    ///
    /// # Errors
    /// Buckets that make no histogram.
    pub fn install(start: EventTimestamp) -> Result<Self, BuildError> {
        let full = |name: &str| Matcher::Full(name.to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(full(REQUEST_LATENCY_SECONDS), &LATENCY_BUCKETS)?
            .set_buckets_for_metric(full(REQUEST_STAGE_SECONDS), &STAGE_BUCKETS)?
            .set_buckets_for_metric(full(FEATURE_AGE_SECONDS), &AGE_BUCKETS)?
            .set_buckets_for_metric(full(STREAM_FRESHNESS_SECONDS), &LATENCY_BUCKETS)?
            .set_buckets_for_metric(full(ONLINE_REQUEST_ROWS), &ROWS_BUCKETS)?
            .build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_ok() {
            describe();
            gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
            gauge!(PROCESS_START_TIME_SECONDS).set(start.micros() as f64 / 1e6);
        }
        Ok(Metrics { handle })
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        record_process();
        self.handle.render()
    }

    /// Puts what was recorded into its buckets; to be called every [`UPKEEP_INTERVAL`].
    pub fn run_upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn describe() {
    describe_counter!(REQUESTS_TOTAL, "Answered requests.");
    describe_histogram!(REQUEST_LATENCY_SECONDS, "From a request's arrival to the last byte of its answer.");
    describe_histogram!(REQUEST_STAGE_SECONDS, "Parts of an online request's time.");
    describe_histogram!(FEATURE_AGE_SECONDS, "How old the values of online answers are.");
    describe_histogram!(ONLINE_REQUEST_ROWS, "Rows of each online request.");
    describe_counter!(PREDICTIONS_TOTAL, "Predictions answered.");
    describe_counter!(PREDICTION_LOG_ROWS_TOTAL, "Rows for the prediction log.");
    describe_counter!(PREDICTION_LOG_DROPPED_TOTAL, "Rows that the queue of the prediction log had no place for.");
    describe_counter!(SHADOW_ROWS_TOTAL, "Rows that shadows were to see.");
    describe_counter!(ROW_CACHE_READS_TOTAL, "Rows looked for in the cache of rows.");
    describe_gauge!(ROW_CACHE_BYTES, "Bytes of rows in the cache of rows, about.");
    describe_gauge!(ONLINE_STORE, "What the online store tells of its size and state.");
    describe_counter!(SUMS_OUT_OF_RANGE_TOTAL, "Sums of integers that no int64 is, answered as null.");
    describe_counter!(STREAM_APPLIED_ROWS_TOTAL, "Rows of streams that are in the online store.");
    describe_counter!(STREAM_ROWS_TOTAL, "What became of the rows that came in.");
    describe_histogram!(STREAM_FRESHNESS_SECONDS, "From an event's arrival to its being visible online.");
    describe_gauge!(STREAM_LAG_RECORDS, "Records of the log that are not in the store yet.");
    describe_gauge!(STREAM_PENDING_BYTES, "Bytes of events that wait to be in both stores.");
    describe_gauge!(STREAM_WATERMARK_SECONDS, "The greatest event timestamp accepted so far, since the Unix epoch.");
    describe_counter!(TRACE_SPANS_TOTAL, "Spans of traced requests, and what became of them.");
    describe_gauge!(BUILD_INFO, "1, with the version of the program.");
    describe_gauge!(PROCESS_START_TIME_SECONDS, "When the process started, since the Unix epoch.");
    describe_gauge!(PROCESS_RESIDENT_MEMORY_BYTES, "Memory that the process holds.");
    describe_gauge!(PROCESS_CPU_SECONDS_TOTAL, "CPU time that the process took.");
    describe_gauge!(PROCESS_OPEN_FDS, "Files and sockets that the process has open.");
}

/// What the system knows of this process; nothing where there is no `/proc`.
fn record_process() {
    if let Some(bytes) = resident_bytes() {
        gauge!(PROCESS_RESIDENT_MEMORY_BYTES).set(bytes);
    }
    if let Some(seconds) = process_cpu_seconds() {
        gauge!(PROCESS_CPU_SECONDS_TOTAL).set(seconds);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        gauge!(PROCESS_OPEN_FDS).set(open.count() as f64);
    }
}

fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024.0)
}

/// CPU time that this process took since it started; None where there is no `/proc`.
pub fn process_cpu_seconds() -> Option<f64> {
    /// The kernel counts in these whatever its own clock is.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which may hold anything, in parentheses: utime and stime are the 12th and 13th.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / TICKS_PER_SECOND)
}
