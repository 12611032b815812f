-- The spine: every scheduled departure, and the label.
SELECT flight,
       carrier,
       tailnum,
       origin,
       dest,
       distance,
       scheduled_hour + minute * INTERVAL '1 minute' AS event_timestamp,
       arr_delay
FROM flights
