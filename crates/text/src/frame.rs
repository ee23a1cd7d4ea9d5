//! The special tokens that are put around an encoded text.

use serde_json::Value;

/// Ids before and after the ids of a text, when special tokens are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub before: Vec<u32>,
    pub after: Vec<u32>,
}

impl Frame {
    pub(crate) fn around(&self, ids: &[u32]) -> Vec<u32> {
        [&self.before, ids, &self.after].concat()
    }

    /// Puts `bos` first unless it is there.
    pub(crate) fn ensure_bos(&mut self, bos: u32) {
        if !self.before.contains(&bos) {
            self.before.insert(0, bos);
        }
    }

    /// What the `post_processor` of a `tokenizer.json` puts around a single text.
    ///
    /// # Errors
    /// A kind of post-processor or a template that is not understood, named.
    pub(crate) fn from_post_processor(post: &Value) -> Result<Self, String> {
        let mut frame = Self::default();
        frame.wrap(post)?;
        Ok(frame)
    }

    /// Wraps one more post-processor around what earlier ones made.
    fn wrap(&mut self, post: &Value) -> Result<(), String> {
        if post.is_null() {
            return Ok(());
        }
        match post["type"].as_str().unwrap_or_default() {
            // Changes offsets only.
            "ByteLevel" => Ok(()),
            "Sequence" => {
                let all = post["processors"].as_array().ok_or("Sequence without processors")?;
                // Nested sequences are as deep as the JSON parser lets them be.
                all.iter().try_for_each(|one| self.wrap(one))
            }
            "TemplateProcessing" => self.wrap_template(post),
            "BertProcessing" | "RobertaProcessing" => {
                self.before.insert(0, pair_id(post, "cls")?);
                self.after.push(pair_id(post, "sep")?);
                Ok(())
            }
            other => Err(format!("type {other:?} is not supported")),
        }
    }

    fn wrap_template(&mut self, post: &Value) -> Result<(), String> {
        let pieces = post["single"].as_array().ok_or("TemplateProcessing without a list named single")?;
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let mut seen = false;
        for piece in pieces {
            if piece.get("Sequence").is_some() {
                if std::mem::replace(&mut seen, true) {
                    return Err("the template repeats the text".into());
                }
            } else {
                let name =
                    piece["SpecialToken"]["id"].as_str().ok_or("a piece is neither Sequence nor SpecialToken")?;
                let ids = post["special_tokens"][name]["ids"].as_array();
                let ids = ids.ok_or_else(|| format!("special_tokens has no ids for {name:?}"))?;
                let side = if seen { &mut after } else { &mut before };
                for id in ids {
                    let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                    side.push(id.ok_or_else(|| format!("special_tokens has a bad id for {name:?}"))?);
                }
            }
        }
        if !seen {
            return Err("the template leaves the text out".into());
        }
        self.before.splice(0..0, before);
        self.after.append(&mut after);
        Ok(())
    }
}

fn pair_id(post: &Value, key: &str) -> Result<u32, String> {
    let id = post[key][1].as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| format!("{key} is not a pair of a token and its id"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(single: Value) -> Value {
        json!({"type": "TemplateProcessing", "single": single, "special_tokens": {
            "<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}, "</s>": {"id": "</s>", "ids": [2, 3], "tokens": ["</s>", "."]},
        }})
    }

    #[test]
    fn templates_and_sequences() {
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        let bos = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
        let eos = json!({"SpecialToken": {"id": "</s>", "type_id": 0}});
        let frame = |post: &Value| Frame::from_post_processor(post);

        let both = frame(&template(json!([bos, text, eos]))).unwrap();
        assert_eq!(both.around(&[7, 8]), [1, 7, 8, 2, 3]);
        let nested = json!({"type": "Sequence", "processors": [
            {"type": "ByteLevel"}, template(json!([text, eos])), template(json!([bos, text])),
        ]});
        assert_eq!(frame(&nested).unwrap(), both);
        assert_eq!(frame(&Value::Null).unwrap(), Frame::default());
        let roberta = json!({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]});
        assert_eq!(frame(&roberta).unwrap().around(&[5]), [0, 5, 2]);

        let unknown = json!({"SpecialToken": {"id": "<x>", "type_id": 0}});
        for bad in [
            template(json!([bos])),
            template(json!([text, text])),
            template(json!([unknown, text])),
            template(json!([3, text])),
            template(Value::Null),
            json!({"type": "Other"}),
            json!({"type": "BertProcessing", "sep": "x"}),
            json!({"type": "TemplateProcessing", "single": [bos, text], "special_tokens": {"<s>": {"ids": [-1]}}}),
            json!(3),
        ] {
            assert!(frame(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn never_twice() {
        let mut frame = Frame { before: vec![1], after: vec![] };
        frame.ensure_bos(1);
        frame.ensure_bos(1);
        assert_eq!(frame, Frame { before: vec![1], after: vec![] });
    }
}
