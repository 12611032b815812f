mod fixture;
mod oracle;
mod random;
mod refusals;
mod tables;
