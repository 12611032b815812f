        (json!({"features": ["origin_weather"], "entities": {"origin": [{"a": 1}]}}), 400),
        (json!({"features": ["nothing"], "entities": {"origin": ["JFK"]}}), 404),
        (json!({"features": ["origin_weather"], "entities": {"origin": ["JFK"]}, "now": "2013-01-01"}), 400),
        (json!({"features": ["origin_weather"], "entities": {"origin": vec!["JFK"; 10_001]}}), 400),
    ] {
        let (status, answer) = server.post(&body);
        assert_eq!(status, code, "{answer}");
        assert!(answer["error"].is_string());
