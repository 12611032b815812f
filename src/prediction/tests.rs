//! Shares of traffic.

use super::share;

#[test]
fn shares_are_those_asked_for_and_the_same_each_time() {
    let ids: Vec<String> = (0..10_000).map(|number| format!("id-{number}")).collect();
    for percent in [2.0, 10.0, 50.0] {
        let chosen = |id: &&String| share(&["shadow", "route", "model"], id) * 100.0 < percent;
        let first: Vec<&String> = ids.iter().filter(chosen).collect();
        let again: Vec<&String> = ids.iter().filter(chosen).collect();
        assert_eq!(first, again);
        let p: f64 = percent / 100.0;
        // The 99.9 % band of a binomial distribution, by its normal approximation.
        let band = 3.2905 * (10_000.0 * p * (1.0 - p)).sqrt();
        let distance = (first.len() as f64 - 10_000.0 * p).abs();
        assert!(distance <= band, "{percent} %: {} of 10,000", first.len());
    }
}

#[test]
fn shares_of_two_purposes_are_independent() {
    let both =
        (0..10_000).map(|number| number.to_string()).filter(|id| share(&["a"], id) < 0.5 && share(&["b"], id) < 0.5);
    assert!((2_300..2_700).contains(&both.count()));
    assert_ne!(share(&["ab", "c"], "d"), share(&["a", "bc"], "d"));
}
