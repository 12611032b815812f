//! Which row groups and pages of a table may hold an answer, by their statistics.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt64Array};
use arrow::compute::{cast, nullif};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::row::{OwnedRow, RowConverter, Rows, SortField};
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::errors::ParquetError;

use super::read::{self, OpenFile, RowGroup};
use super::{NeededTimes, TableReads, TableView};
use crate::point_in_time_join::{JoinError, SpineIndex};

/// The row groups that may hold a row of a group of the spine at a time that it needs, each with the rows of its pages
/// that may.
pub async fn row_groups(
    index: &SpineIndex,
    view: &TableView,
    needed: &NeededTimes,
    files: Vec<OpenFile>,
    reads: &TableReads,
) -> Result<Vec<RowGroup>, JoinError> {
    let failed = |source| read::failed(view, source);
    let rows: usize = files.iter().map(|file| file.metadata.metadata().file_metadata().num_rows() as usize).sum();
    // With more keys than pages nearly every page holds one of them.
    let is_sparse = index.group_count() < rows.div_ceil(view.files.page_rows.max(1)) && !view.keys.is_empty();
    let keys = is_sparse.then(|| SpineKeys::new(index)).transpose().map_err(|source| failed(source.into()))?;
    let filter = Filter { view, keys, needed, bounds: needed.bounds() };
    let pruned = files.into_iter().map(|file| {
        let filter = &filter;
        async move { filter.file(file, reads).await.map_err(failed) }
    });
    let groups: Vec<Vec<RowGroup>> = futures::stream::iter(pruned).buffered(read::OPEN_AT_ONCE).try_collect().await?;
    Ok(groups.into_iter().flatten().collect())
}

struct Filter<'a> {
    view: &'a TableView,
    /// None: there are so many that looking for them does not pay.
    keys: Option<SpineKeys>,
    needed: &'a NeededTimes,
    /// First and last needed time of all groups; None: none needs any.
    bounds: Option<(i64, i64)>,
}

impl Filter<'_> {
    async fn file(&self, file: OpenFile, reads: &TableReads) -> Result<Vec<RowGroup>, ParquetError> {
        let count = file.metadata.metadata().num_row_groups();
        let kept = self.kept(&Statistics::of_row_groups(&file, self.view)?)?;
        reads.row_groups.fetch_add(count, Relaxed);
        if !kept.contains(&true) {
            reads.row_groups_pruned.fetch_add(count, Relaxed);
            return Ok(Vec::new());
        }
        let file = if self.keys.is_some() { file.with_page_index().await? } else { file };
        let mut groups = Vec::new();
        for row_group in (0..count).filter(|row_group| kept[*row_group]) {
            let rows = file.metadata.metadata().row_group(row_group).num_rows() as usize;
            let selection = self.pages(&file, row_group, rows)?;
            if selection.as_ref().is_none_or(|ranges| !ranges.is_empty()) {
                groups.push(RowGroup { file: file.clone(), row_group, rows, selection });
            }
        }
        reads.row_groups_pruned.fetch_add(count - groups.len(), Relaxed);
        Ok(groups)
    }

    /// The rows of the pages that may match; None: all rows, or no statistics.
    fn pages(&self, file: &OpenFile, row_group: usize, rows: usize) -> Result<Option<Vec<Range<usize>>>, ParquetError> {
        if self.keys.is_none() {
            return Ok(None);
        }
        let Some((statistics, pages)) = Statistics::of_pages(file, self.view, row_group, rows)? else {
            return Ok(None);
        };
        let kept = self.kept(&statistics)?;
        if kept.iter().all(|kept| *kept) {
            return Ok(None);
        }
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for page in pages.into_iter().zip(kept).filter_map(|(page, kept)| kept.then_some(page)) {
            match ranges.last_mut() {
                Some(last) if last.end == page.start => last.end = page.end,
                _ => ranges.push(page),
            }
        }
        Ok(Some(ranges))
    }

    /// Whether each row group or page may hold a row that is needed.
    fn kept(&self, statistics: &Statistics) -> Result<Vec<bool>, ParquetError> {
        let Some((oldest, last)) = self.bounds else { return Ok(vec![false; statistics.count]) };
        let times = match &statistics.events {
            Some((min, max)) => times_of(min)?.into_iter().zip(times_of(max)?).map(Times::new).collect(),
            None => vec![Times::UNKNOWN; statistics.count],
        };
        let mut kept: Vec<bool> = times.iter().map(|times| times.meet(oldest, last)).collect();
        if let Some(keys) = &self.keys {
            keys.exclude(&statistics.keys, &times, self.needed, &mut kept)?;
        }
        Ok(kept)
    }
}

fn times_of(bounds: &ArrayRef) -> Result<Vec<Option<i64>>, ArrowError> {
    Ok(cast(bounds, &read::instant_type())?.as_primitive::<TimestampMicrosecondType>().iter().collect())
}

/// Between which event timestamps rows lie, in microseconds; None: it is not known, as of rows that have none.
#[derive(Debug, Clone, Copy)]
struct Times {
    min: Option<i64>,
    max: Option<i64>,
}

impl Times {
    const UNKNOWN: Times = Times { min: None, max: None };

    fn new((min, max): (Option<i64>, Option<i64>)) -> Self {
        Times { min, max }
    }

    fn meet(&self, first: i64, last: i64) -> bool {
        self.min.is_none_or(|min| min <= last) && self.max.is_none_or(|max| max >= first)
    }
}

/// Keys of the spine between two bounds whose times are looked at; where there are more, one of them will be needed.
const KEYS_LOOKED_AT_MAX: usize = 16;

/// The distinct keys of a spine, as bytes that compare as they do.
struct SpineKeys {
    types: Vec<DataType>,
    converter: RowConverter,
    /// Each with the number of its group.
    sorted: Vec<(OwnedRow, usize)>,
}

impl SpineKeys {
    fn new(index: &SpineIndex) -> Result<Self, ArrowError> {
        let fields = index.key_types().iter().cloned().map(SortField::new).collect();
        let converter = RowConverter::new(fields)?;
        let rows = converter.convert_columns(&index.distinct_keys()?)?;
        let mut sorted: Vec<(OwnedRow, usize)> =
            rows.iter().enumerate().map(|(group, row)| (row.owned(), group)).collect();
        sorted.sort_unstable();
        Ok(SpineKeys { types: index.key_types().to_vec(), converter, sorted })
    }

    /// Unmarks what lies between no two bounds that have a key of the spine between them which needs such times.
    ///
    /// A row whose every key lies between a least and a greatest one lies between the tuples of these, too.
    fn exclude(
        &self,
        bounds: &[(ArrayRef, ArrayRef)],
        times: &[Times],
        needed: &NeededTimes,
        kept: &mut [bool],
    ) -> Result<(), ParquetError> {
        let rows = |side: fn(&(ArrayRef, ArrayRef)) -> &ArrayRef| -> Result<Rows, ArrowError> {
            let columns = bounds.iter().zip(&self.types).map(|(bounds, wanted)| cast(side(bounds), wanted));
            self.converter.convert_columns(&columns.collect::<Result<Vec<_>, _>>()?)
        };
        let (least, greatest) = (rows(|bounds| &bounds.0)?, rows(|bounds| &bounds.1)?);
        let is_known = |number: usize| bounds.iter().all(|(min, max)| min.is_valid(number) && max.is_valid(number));
        for (number, kept) in kept.iter_mut().enumerate().filter(|(number, kept)| **kept && is_known(*number)) {
            let first = self.sorted.partition_point(|(key, _)| key.row() < least.row(number));
            let between = || self.sorted[first..].iter().take_while(|(key, _)| key.row() <= greatest.row(number));
            let is_needed = |(_, group): &(OwnedRow, usize)| {
                needed.of_group(*group).iter().any(|(first, last)| times[number].meet(*first, *last))
            };
            *kept = between().nth(KEYS_LOOKED_AT_MAX).is_some() || between().any(is_needed);
        }
        Ok(())
    }
}

/// Least and greatest values of some row groups or pages; null where they are not known.
struct Statistics {
    count: usize,
    /// One pair a key.
    keys: Vec<(ArrayRef, ArrayRef)>,
    events: Option<(ArrayRef, ArrayRef)>,
}

impl Statistics {
    fn of_row_groups(file: &OpenFile, view: &TableView) -> Result<Self, ParquetError> {
        let groups = file.metadata.metadata().row_groups();
        let bounds = |name: &String| -> Result<(ArrayRef, ArrayRef), ParquetError> {
            let converter = StatisticsConverter::try_new(name, file.metadata.schema(), file.metadata.parquet_schema())?;
            Ok((converter.row_group_mins(groups)?, converter.row_group_maxes(groups)?))
        };
        let nulls = |name: &String| -> Result<UInt64Array, ParquetError> {
            let schema = file.metadata.parquet_schema();
            StatisticsConverter::try_new(name, file.metadata.schema(), schema)?.row_group_null_counts(groups)
        };
        let events = view.event_timestamp.as_ref().map(|name| known(bounds(name)?, &nulls(name)?));
        Ok(Statistics {
            count: groups.len(),
            keys: view.keys.iter().map(bounds).collect::<Result<_, _>>()?,
            events: events.transpose()?,
        })
    }

    /// The statistics of a row group's pages, and the rows of each; None where the file has none.
    fn of_pages(
        file: &OpenFile,
        view: &TableView,
        row_group: usize,
        rows: usize,
    ) -> Result<Option<PagesOf>, ParquetError> {
        let metadata = file.metadata.metadata();
        let (Some(column_index), Some(offset_index)) = (metadata.column_index(), metadata.offset_index()) else {
            return Ok(None);
        };
        let converter =
            |name: &String| StatisticsConverter::try_new(name, file.metadata.schema(), file.metadata.parquet_schema());
        let pages = |converter: &StatisticsConverter<'_>| -> Option<Vec<Range<usize>>> {
            let locations = offset_index.get(row_group)?.get(converter.parquet_column_index()?)?.page_locations();
            let starts = locations.iter().map(|location| location.first_row_index as usize);
            let ends = starts.clone().skip(1).chain([rows]);
            Some(starts.zip(ends).map(|(start, end)| start..end).collect())
        };
        let bounds = |converter: &StatisticsConverter<'_>| -> Result<(ArrayRef, ArrayRef), ParquetError> {
            Ok((
                converter.data_page_mins(column_index, offset_index, [&row_group])?,
                converter.data_page_maxes(column_index, offset_index, [&row_group])?,
            ))
        };
        let keys = view.keys.iter().map(converter).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = keys.first().and_then(pages) else { return Ok(None) };
        if keys.iter().any(|key| pages(key).as_ref() != Some(&first)) {
            return Ok(None);
        }
        let events = view.event_timestamp.as_ref().map(converter).transpose()?;
        let events = events.filter(|events| pages(events).as_ref() == Some(&first));
        let statistics = Statistics {
            count: first.len(),
            keys: keys.iter().map(bounds).collect::<Result<_, _>>()?,
            events: events
                .as_ref()
                .map(|events| {
                    let nulls = events.data_page_null_counts(column_index, offset_index, [&row_group])?;
                    known(bounds(events)?, &nulls)
                })
                .transpose()?,
        };
        Ok(Some((statistics, first)))
    }
}

/// Statistics of pages, and the rows of each page.
type PagesOf = (Statistics, Vec<Range<usize>>);

/// Bounds that say something of every row: none where some rows are null, since these hold at every time.
fn known(bounds: (ArrayRef, ArrayRef), nulls: &UInt64Array) -> Result<(ArrayRef, ArrayRef), ParquetError> {
    let has_nulls: BooleanArray = nulls.iter().map(|count| Some(count.is_none_or(|count| count > 0))).collect();
    Ok((nullif(&bounds.0, &has_nulls)?, nullif(&bounds.1, &has_nulls)?))
}
