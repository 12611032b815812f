mod fixture;
mod oracle;
mod plan;
mod random;
mod refusals;
mod tables;
