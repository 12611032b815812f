-- The spine: every scheduled departure, and the label.
SELECT flight,
       carrier,
       tailnum,
       origin,
       dest,
       distance,
       scheduled_hour + arrow_cast(60 * minute, 'Duration(Second)') AS event_timestamp,
       arr_delay
FROM flights
