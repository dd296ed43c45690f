#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    skynet_fuzz_bodies::agent::dns(bytes);
});
