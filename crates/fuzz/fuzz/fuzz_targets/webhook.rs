#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gha_slurm_fuzz::webhook(bytes));
