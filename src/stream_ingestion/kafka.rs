//! Topics of Kafka as sources of events: one thread a topic, which reads on from where the log stands.
//!
//! Offsets are those of our own log and tables: what the group has committed at the brokers is for people to look at.
//! A batch of messages is one record of the log, with the offsets that come after it, so that both are stored or none.
//! Without a `group` every partition is read here, from the first moment; with one the group shares them out.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::array::{BinaryArray, BinaryBuilder};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tokio::runtime::Handle;

use super::IngestionError;
use super::avro::AvroSchema;
use super::dead_letters::MessagePlace;
use super::engine::{Ingestion, lock};
use super::intake::{Acknowledge, PendingPush, PushedRows};
use super::record::TopicPosition;
use crate::definition::{EventFormat, KafkaTopic, Source, SourceName, StreamInput};
use crate::registry::RegistryVersion;

/// Messages that make a batch, and how long the first of them waits for others.
const BATCH_MESSAGES: usize = 16 * 1024;
const BATCH_BYTES: usize = 8 << 20;
const BATCH_WAIT: Duration = Duration::from_millis(5);
/// How long one look for messages takes at most.
const POLL: Duration = Duration::from_millis(50);
/// Batches that are judged and not durable yet.
const SETTLING_MAX: usize = 4;
/// How often a topic is looked at for new partitions.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
const METADATA_PATIENCE: Duration = Duration::from_secs(5);
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The topics that a process reads.
#[derive(Default)]
pub struct Topics {
    readers: Mutex<HashMap<SourceName, Reader>>,
    /// Whether some topic that was asked for is not read.
    is_behind: AtomicBool,
}

struct Reader {
    topic: KafkaTopic,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl std::fmt::Debug for Topics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topics").finish_non_exhaustive()
    }
}

impl Topics {
    /// Reads the topics of this version of the registry from now on, and no others.
    ///
    /// # Errors
    /// A schema that cannot be read, settings that librdkafka refuses: the other topics are read.
    pub fn follow(
        &self,
        ingestion: &Arc<Ingestion>,
        registry: &RegistryVersion,
        project_name: &str,
        project: &Path,
        workers: &Handle,
    ) -> Result<(), IngestionError> {
        let mut wanted: HashMap<SourceName, &KafkaTopic> = HashMap::new();
        for source in &registry.definitions.sources {
            if let Some(StreamInput::Kafka(topic)) = source.stream.as_ref().map(|stream| &stream.input) {
                wanted.insert(source.name.clone(), topic);
            }
        }
        let mut readers = lock(&self.readers);
        let is_gone = |name: &SourceName, reader: &Reader| wanted.get(name).is_none_or(|topic| **topic != reader.topic);
        let gone: Vec<SourceName> =
            readers.iter().filter(|(name, reader)| is_gone(name, reader)).map(|(name, _)| name.clone()).collect();
        gone.iter().filter_map(|name| readers.remove(name)).for_each(Reader::stop);
        let mut failed = None;
        lock(&ingestion.topic_faults).retain(|name, _| wanted.contains_key(name));
        for (name, topic) in wanted {
            if readers.contains_key(&name) {
                continue;
            }
            let source = registry.definitions.source(name.as_str());
            let Some(source) = source else { continue };
            let group = topic.group.clone().unwrap_or_else(|| format!("asof-{project_name}"));
            match Reader::start(ingestion, source, topic, &group, project, workers) {
                Ok(reader) => {
                    ingestion.tell_topic(&name, None);
                    readers.insert(name, reader);
                }
                Err(error) => {
                    ingestion.tell_topic(&name, Some(error.clone()));
                    failed = Some(error);
                }
            }
        }
        self.is_behind.store(failed.is_some(), Ordering::SeqCst);
        failed.map_or(Ok(()), Err)
    }

    /// Whether some topic could not be opened, and has to be tried again.
    pub fn are_behind(&self) -> bool {
        self.is_behind.load(Ordering::SeqCst)
    }

    /// Reads no more; what is read is handed over.
    pub fn stop(&self) {
        lock(&self.readers).drain().for_each(|(_, reader)| reader.stop());
    }
}

impl Reader {
    fn start(
        ingestion: &Arc<Ingestion>,
        source: &Source,
        topic: &KafkaTopic,
        group: &str,
        project: &Path,
        workers: &Handle,
    ) -> Result<Self, IngestionError> {
        let failed = |problem: String| IngestionError::Topic { source_name: source.name.clone(), problem };
        let format = match (topic.format, &topic.schema_file) {
            (EventFormat::Json, _) | (EventFormat::Avro, None) => Format::Json,
            (EventFormat::Avro, Some(file)) => {
                let path: PathBuf = project.join(file);
                let text = std::fs::read_to_string(&path).map_err(|error| failed(format!("`{file}`: {error}")))?;
                Format::Avro(AvroSchema::parse(&text).map_err(|problem| failed(format!("`{file}`: {problem}")))?)
            }
        };
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &topic.brokers).set("group.id", group);
        // Offsets begin where the stores end; the group's are only shown.
        config.set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
        config.set("enable.partition.eof", "false");
        for (key, value) in &topic.settings {
            config.set(key, value);
        }
        let context = Positions {
            ingestion: Arc::downgrade(ingestion),
            source: source.name.clone(),
            workers: workers.clone(),
            next: Mutex::default(),
        };
        let consumer: BaseConsumer<Positions> =
            config.create_with_context(context).map_err(|error| failed(error.to_string()))?;
        if topic.group.is_some() {
            consumer.subscribe(&[&topic.topic]).map_err(|error| failed(error.to_string()))?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let reading = Reading {
            consumer,
            source: source.name.clone(),
            topic: topic.topic.as_str().into(),
            is_shared: topic.group.is_some(),
            format,
            stop: Arc::clone(&stop),
            ingestion: Arc::downgrade(ingestion),
            workers: workers.clone(),
        };
        let thread = std::thread::Builder::new().name("asof-kafka".to_owned());
        let thread = thread.spawn(move || reading.run()).map_err(|error| failed(error.to_string()))?;
        Ok(Reader { topic: topic.clone(), stop, thread })
    }

    fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.join();
    }
}

/// How values of messages are written.
enum Format {
    Json,
    Avro(AvroSchema),
}

/// Where each partition goes on.
struct Positions {
    ingestion: Weak<Ingestion>,
    source: SourceName,
    workers: Handle,
    /// The next offset of each partition that was read here.
    next: Mutex<HashMap<i32, i64>>,
}

impl ClientContext for Positions {}

impl ConsumerContext for Positions {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let done = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                let assigned = self.with_offsets(partitions);
                consumer.assign(&assigned)
            }
            _ => {
                // Who reads them from here on reads their positions in the tables.
                if let Some(ingestion) = self.ingestion.upgrade()
                    && let Err(error) = self.workers.block_on(ingestion.flush())
                {
                    tracing::warn!(error = &error as &dyn std::error::Error, "events could not be archived");
                }
                lock(&self.next).clear();
                consumer.unassign()
            }
        };
        if let Err(error) = done {
            tracing::warn!(source = %self.source, %error, "partitions cannot be taken over or given up");
        }
    }
}

impl Positions {
    fn with_offsets(&self, partitions: &TopicPartitionList) -> TopicPartitionList {
        let mut assigned = TopicPartitionList::new();
        for element in partitions.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            let known = loop {
                let Some(ingestion) = self.ingestion.upgrade() else { break None };
                match self.workers.block_on(ingestion.next_offset(&self.source, topic, partition)) {
                    Ok(known) => break known,
                    Err(error) => {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "a position cannot be read; trying again"
                        );
                        std::thread::sleep(RETRY_INTERVAL);
                    }
                }
            };
            let offset = known.map_or(Offset::Beginning, Offset::Offset);
            if let Err(error) = assigned.add_partition_offset(topic, partition, offset) {
                tracing::warn!(source = %self.source, %error, partition, "a partition cannot be taken over");
            }
            lock(&self.next).extend(known.map(|known| (partition, known)));
        }
        assigned
    }
}

/// Messages that are taken together.
#[derive(Default)]
struct Batch {
    values: BinaryBuilder,
    places: Vec<MessagePlace>,
    next: HashMap<i32, i64>,
    bytes: usize,
}

struct Reading {
    consumer: BaseConsumer<Positions>,
    source: SourceName,
    topic: Arc<str>,
    /// Whether a group shares out the partitions.
    is_shared: bool,
    format: Format,
    stop: Arc<AtomicBool>,
    ingestion: Weak<Ingestion>,
    workers: Handle,
}

impl Reading {
    fn run(self) {
        let mut settling: VecDeque<(PendingPush, HashMap<i32, i64>)> = VecDeque::new();
        let mut look_at = Instant::now();
        while !self.stop.load(Ordering::SeqCst) {
            if Instant::now() >= look_at {
                let partitions = self.partitions();
                // Of a group each worker is given its own.
                let is_settled = partitions.is_some_and(|found| self.is_shared || self.take_partitions(found));
                look_at = Instant::now() + if is_settled { LOOK_INTERVAL } else { RETRY_INTERVAL };
            }
            let batch = self.read();
            let Some(ingestion) = self.ingestion.upgrade() else { return };
            let is_idle = batch.places.is_empty();
            if !is_idle && !self.hand_over(&ingestion, batch, &mut settling) {
                return;
            }
            while settling.len() > SETTLING_MAX || (is_idle && !settling.is_empty()) {
                let Some((pending, next)) = settling.pop_front() else { break };
                if let Err(error) = self.workers.block_on(pending.settle(Acknowledge::Durable)) {
                    tracing::warn!(source = %self.source, error = &error as &dyn std::error::Error, "messages will be read again");
                    settling.clear();
                    self.read_again();
                    break;
                }
                self.show(&next);
            }
        }
        for (pending, _) in settling {
            let _ = self.workers.block_on(pending.settle(Acknowledge::Durable));
        }
    }

    fn tell(&self, problem: Option<String>) {
        if let Some(ingestion) = self.ingestion.upgrade() {
            let fault = |problem| IngestionError::Topic { source_name: self.source.clone(), problem };
            ingestion.tell_topic(&self.source, problem.map(fault));
        }
    }

    /// The partitions that there are, one at least; None: it is not known, and told why.
    fn partitions(&self) -> Option<Vec<i32>> {
        let found = match self.consumer.fetch_metadata(Some(&self.topic), METADATA_PATIENCE) {
            Ok(metadata) => {
                let topic = metadata.topics().iter().find(|topic| topic.name() == &*self.topic);
                topic.map(|topic| topic.partitions().iter().map(|partition| partition.id()).collect::<Vec<i32>>())
            }
            Err(error) => {
                self.tell(Some(format!("its brokers cannot be asked: {error}")));
                return None;
            }
        };
        let found = found.filter(|found| !found.is_empty());
        self.tell(found.is_none().then(|| format!("there is no topic `{}`", self.topic)));
        found
    }

    /// Takes over the partitions that are new; false where that has to be tried again.
    fn take_partitions(&self, found: Vec<i32>) -> bool {
        let mut assigned = match self.consumer.assignment() {
            Ok(assigned) => assigned,
            Err(_) => return false,
        };
        let new: Vec<i32> =
            found.into_iter().filter(|id| assigned.find_partition(&self.topic, *id).is_none()).collect();
        if new.is_empty() {
            return true;
        }
        let mut fresh = TopicPartitionList::new();
        for partition in &new {
            fresh.add_partition(&self.topic, *partition);
        }
        let fresh = self.consumer.context().with_offsets(&fresh);
        // Those that are read already go on where they are.
        let next = lock(&self.consumer.context().next).clone();
        for (partition, offset) in next.iter().filter(|(partition, _)| !new.contains(partition)) {
            let _ = assigned.set_partition_offset(&self.topic, *partition, Offset::Offset(*offset));
        }
        for element in fresh.elements() {
            let _ = assigned.add_partition_offset(element.topic(), element.partition(), element.offset());
        }
        match self.consumer.assign(&assigned) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(source = %self.source, %error, "partitions cannot be taken over");
                false
            }
        }
    }

    fn read(&self) -> Batch {
        let mut batch = Batch::default();
        let mut until = Instant::now() + POLL;
        while batch.places.len() < BATCH_MESSAGES && batch.bytes < BATCH_BYTES {
            let now = Instant::now();
            if now >= until || self.stop.load(Ordering::SeqCst) {
                break;
            }
            match self.consumer.poll(until - now) {
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    let mut next = lock(&self.consumer.context().next);
                    let expected = next.entry(partition).or_insert(offset);
                    if offset < *expected {
                        // Delivered twice.
                        continue;
                    }
                    *expected = offset + 1;
                    batch.next.insert(partition, offset + 1);
                    if batch.places.is_empty() {
                        until = now + BATCH_WAIT;
                    }
                    batch.bytes += message.payload_len();
                    batch.values.append_option(message.payload());
                    batch.places.push(MessagePlace { topic: Arc::clone(&self.topic), partition, offset });
                }
                Some(Err(error)) => self.tell(Some(error.to_string())),
                None => break,
            }
        }
        batch
    }

    /// Hands a batch to the log, however long that takes; false where everything ends.
    fn hand_over(
        &self,
        ingestion: &Arc<Ingestion>,
        mut batch: Batch,
        settling: &mut VecDeque<(PendingPush, HashMap<i32, i64>)>,
    ) -> bool {
        let positions: Vec<TopicPosition> = batch
            .next
            .iter()
            .map(|(partition, next)| TopicPosition {
                topic: self.topic.to_string(),
                partition: *partition,
                next_offset: *next,
            })
            .collect();
        let values = batch.values.finish();
        loop {
            let rows = self.rows(&values);
            match ingestion.begin_messages(&self.source, rows, &batch.places, &positions) {
                Ok(pending) => {
                    settling.push_back((pending, batch.next));
                    return true;
                }
                Err(IngestionError::Closed) => return false,
                Err(error) => {
                    if !matches!(error, IngestionError::Full { .. }) {
                        tracing::warn!(source = %self.source, error = &error as &dyn std::error::Error, "messages cannot be taken; trying again");
                    }
                    std::thread::sleep(RETRY_INTERVAL);
                    if self.stop.load(Ordering::SeqCst) {
                        return false;
                    }
                }
            }
        }
    }

    fn rows(&self, values: &BinaryArray) -> PushedRows {
        match &self.format {
            Format::Json => PushedRows::Messages(values.clone()),
            Format::Avro(schema) => PushedRows::Decoded {
                rows: values.iter().map(|value| schema.decode_value(value)).collect(),
                raw: values.clone(),
            },
        }
    }

    /// What was read and not stored is read once more.
    fn read_again(&self) {
        lock(&self.consumer.context().next).clear();
        if let Ok(assigned) = self.consumer.assignment() {
            let assigned = self.consumer.context().with_offsets(&assigned);
            if let Err(error) = self.consumer.assign(&assigned) {
                tracing::warn!(source = %self.source, %error, "messages cannot be read again");
            }
        }
    }

    /// Tells the brokers how far the group is, for people.
    fn show(&self, next: &HashMap<i32, i64>) {
        let mut offsets = TopicPartitionList::new();
        for (partition, next) in next {
            if offsets.add_partition_offset(&self.topic, *partition, Offset::Offset(*next)).is_err() {
                return;
            }
        }
        // Nothing depends on it.
        let _ = self.consumer.commit(&offsets, CommitMode::Async);
    }
}
