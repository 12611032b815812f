//! Window aggregation: for each moment the spine asks about, the aggregates of the events in the windows before it.
//!
//! ```text
//!  spine (keys, times) ──► SpineIndex ──┐
//!                                       ▼
//!  events, in any order ──► those some window can see, by group of the spine   (events.rs)
//!                                       │ sorted by time within a group
//!                                       ▼
//!                  for each group and window the range of events [lower edge, asked time)
//!                     │ one pass over a group's events and questions for each function
//!                     ├─ of a range: prefix sums, monotonic queues, positions   (ranges.rs)
//!                     └─ anything else: what enters and leaves as time goes on  (sliding.rs)
//! ```
//!
//! Asked times and events of one key are walked together, so a step costs what it reads and answers and the sorting
//! of both, never their product. `tile` owns the arithmetic: what is answered here has the bits of what is answered
//! from tiles. It has not heard of definitions files, tables or requests.

mod aggregating;
mod answer;
mod events;
mod exec;
mod node;
mod ordered;
mod ranges;
mod sliding;
#[cfg(test)]
mod tests;
mod tiled;

pub(crate) use answer::lower_edge;
pub use exec::WindowAggregationExec;
pub use node::{
    AggregatedViewSpec, EventInput, TableTiles, WindowAggregationNode, WindowAggregationSpec, WindowFeature,
};
