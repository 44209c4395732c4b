use proptest::prelude::*;

use super::*;
use crate::engine::{Burn, Cpu, Precision};

/// Text tokens lie below 60; 60 begins a page of four soft tokens, 61.
const CONFIG: &str = r#"{
  "model_type": "gemma3", "mm_tokens_per_image": 4, "image_token_index": 61, "boi_token_index": 60, "eos_token_id": 1,
  "text_config": { "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 7, "query_pre_attn_scalar": 8,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] },
  "vision_config": { "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 4, "vision_use_head": false }
}"#;

fn generator<O: Ops>(ops: O, eos_token_ids: &[u32]) -> Generator<O> {
    let config = ModelConfig::parse("config.json".into(), CONFIG).unwrap();
    let defaults = GenerationConfig { eos_token_ids: eos_token_ids.into(), top_k: 0, top_p: 1.0 };
    Generator { model: MedGemma::random(&ops, &config), ops, defaults }
}

/// A prompt of text tokens, with a page of one colour after each of some of them.
fn request(text: &[u32], pages: &[(usize, u8)]) -> GenerateRequest {
    let mut input_ids = Vec::new();
    for (i, &id) in text.iter().enumerate() {
        input_ids.push(id);
        for _ in pages.iter().filter(|(after, _)| *after == i) {
            input_ids.extend([60, 61, 61, 61, 61]);
        }
    }
    let shown = pages.iter().filter(|(after, _)| *after < text.len());
    GenerateRequest { input_ids, pages: shown.map(|&(_, v)| (0..768).map(|i| v ^ (i % 7) as u8).collect()).collect() }
}

/// A prompt of up to 30 tokens and two pages: longer than the window, shorter, and equal to it.
fn requests() -> impl Strategy<Value = GenerateRequest> {
    let text = prop::collection::vec(2..60_u32, 1..30);
    (text, prop::collection::vec((0..20_usize, 0..3_u8), 0..3)).prop_map(|(text, mut pages)| {
        pages.sort_unstable();
        request(&text, &pages)
    })
}

/// Logits of the last `n` positions of a row in one forward without a cache.
fn uncached(generator: &Generator<Cpu>, request: &GenerateRequest, answer: &[u32]) -> Vec<Vec<f32>> {
    let whole = GenerateRequest { input_ids: [&*request.input_ids, answer].concat(), pages: request.pages.clone() };
    let prompts = Prompts::new(&[whole]).unwrap();
    let logits = generator.model.logits(&generator.ops, &prompts.input(), &mut |_, _| {}).unwrap();
    let logits = generator.ops.download(&logits);
    logits.chunks(64).skip(request.input_ids.len() - 1).map(<[f32]>::to_vec).collect()
}

/// Feeds `answer` token by token: the logits before each token of it and after the last, of each row.
fn cached<O: Ops>(generator: &Generator<O>, requests: &[GenerateRequest], answers: &[Vec<u32>]) -> Vec<Vec<Vec<f32>>> {
    let (model, ops) = (&generator.model, &generator.ops);
    let (logits, mut cache) = model.prompt_logits(ops, &Prompts::new(requests).unwrap().input()).unwrap();
    let rows = |logits| ops.download(&logits).chunks(64).map(<[f32]>::to_vec).collect::<Vec<_>>();
    let mut found: Vec<Vec<Vec<f32>>> = rows(logits).into_iter().map(|row| vec![row]).collect();
    for nth in 0..answers[0].len() {
        let newest: Vec<u32> = answers.iter().map(|answer| answer[nth]).collect();
        let logits = model.next_logits(ops, &newest, &mut cache);
        found.iter_mut().zip(rows(logits)).for_each(|(row, logits)| row.push(logits));
    }
    found
}

fn furthest(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Products of other shapes add in another order, so not to the bit: 1e-4 of logits of order 10.
    #[test]
    fn a_cache_changes_nothing(
        requests in prop::collection::vec(requests(), 1..4),
        tokens in prop::collection::vec(2..60_u32, 100),
    ) {
        let cpu = generator(Cpu::new(Precision::F32), &[]);
        let answers = vec![tokens; requests.len()];
        let found = cached(&cpu, &requests, &answers);
        for (i, request) in requests.iter().enumerate() {
            let expected = uncached(&cpu, request, &answers[i]);
            let apart = furthest(&found[i], &expected);
            prop_assert!(apart < 1e-4, "row {i}: {apart:e}");
        }
    }

    #[test]
    fn an_answer_does_not_depend_on_its_batch(requests in prop::collection::vec(requests(), 2..5), seed: u64) {
        let cpu = generator(Cpu::new(Precision::F32), &[3, 4, 5, 6, 7, 8, 9]);
        let sampling = Sampling { temperature: 1.5, top_k: 20, top_p: 0.95, seed };
        for sampling in [None, Some(&sampling)] {
            let together = cpu.answer(&requests, 90, sampling, &mut |_, _| {}).unwrap();
            for (request, together) in requests.iter().zip(&together) {
                let alone = cpu.answer(std::slice::from_ref(request), 90, sampling, &mut |_, _| {}).unwrap();
                prop_assert_eq!(&alone[0], together);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// To the bit, and so every answer: greedy ones, drawn ones, likelihoods.
    #[test]
    fn the_bits_of_a_row_do_not_depend_on_its_batch(
        requests in prop::collection::vec(requests(), 2..6),
        tokens in prop::collection::vec(2..60_u32, 70),
    ) {
        let cpu = generator(Cpu::new(Precision::F32), &[]);
        let together = cached(&cpu, &requests, &vec![tokens.clone(); requests.len()]);
        for (request, together) in requests.iter().zip(&together) {
            let alone = cached(&cpu, std::slice::from_ref(request), std::slice::from_ref(&tokens));
            prop_assert_eq!(&alone[0], together);
        }
    }
}

#[test]
fn burns_backend_answers_the_same() {
    let requests = [request(&[5; 12], &[(1, 1)]), request(&[7; 3], &[]), request(&[9; 20], &[(0, 0), (4, 2)])];
    let burn = generator(Burn::<burn::backend::Flex>::new(Default::default(), Precision::F32), &[]);
    let cpu = generator(Cpu::new(Precision::F32), &[]);
    let answer = |n: u32| vec![(0..80_u32).map(|i| 2 + (i * n) % 50).collect::<Vec<u32>>(); 3];
    for (a, b) in cached(&burn, &requests, &answer(7)).iter().zip(&cached(&cpu, &requests, &answer(7))) {
        assert!(furthest(a, b) < 1e-3, "{:e}", furthest(a, b));
    }
}

#[test]
fn answers_end_at_every_end_token_or_at_the_limit() {
    let request = request(&[5; 12], &[(1, 1)]);
    let answer = |ends: &[u32], limit| {
        let mut heard = Vec::new();
        let requests = [request.clone()];
        let mut answers = generator(Cpu::new(Precision::F32), ends)
            .answer(&requests, limit, None, &mut |row, token| heard.push((row, token)))
            .unwrap();
        let answer = answers.remove(0);
        assert_eq!(heard.into_iter().map(|(_, token)| token).collect::<Vec<_>>(), answer.tokens, "each is told once");
        answer
    };
    let endless = answer(&[], 40).tokens;
    assert_eq!(endless.len(), 40);
    assert_eq!(answer(&[], 0), Answer::default());
    for n in [0, 1, 17] {
        let end = endless[n];
        let first = endless.iter().position(|&token| token == end).unwrap();
        assert_eq!(answer(&[63, end], 40), Answer { tokens: endless[..first].to_vec(), ended: true });
    }
    assert_eq!(answer(&[63], 3), Answer { tokens: endless[..3].to_vec(), ended: endless[..3].contains(&63) });
}

#[test]
fn prompts_that_cannot_be_answered_are_refused() {
    let cpu = generator(Cpu::new(Precision::F32), &[]);
    let check = |request: GenerateRequest, expected: &str| {
        let refused = cpu.answer(&[request], 3, None, &mut |_, _| {}).unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
    };
    let text = |input_ids| GenerateRequest { input_ids, pages: vec![] };
    check(text(vec![]), "a prompt without a token");
    check(text(vec![64]), "outside the vocabulary of 64");
    check(text(vec![60, 61, 61, 61, 61]), "4 soft image tokens in the text, but 0 pages");
    assert_eq!(cpu.answer(&[], 3, None, &mut |_, _| {}).unwrap(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Against one forward of prompt and candidate, without a cache.
    #[test]
    fn a_likelihood_is_the_product_of_its_tokens(
        requests in prop::collection::vec(requests(), 1..3),
        candidates in prop::collection::vec(prop::collection::vec(2..60_u32, 0..4), 1..5),
    ) {
        let generator = generator(Cpu::new(Precision::F32), &[1]);
        let found = generator.log_probs(&requests, &candidates).unwrap();
        for (request, found) in requests.iter().zip(&found) {
            for (candidate, found) in candidates.iter().zip(found) {
                let logits = uncached(&generator, request, candidate);
                let log_prob = |(logits, &token): (&Vec<f32>, &u32)| {
                    let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
                    f64::from(logits[token as usize]) - sum.ln()
                };
                let expected: f64 = logits.iter().zip(candidate).map(log_prob).sum();
                prop_assert!((found - expected).abs() < 1e-3, "{found} for {expected}");
            }
        }
        prop_assert!(generator.log_probs(&requests, &[vec![64]]).is_err());
    }
}
