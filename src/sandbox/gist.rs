//! The gist of a call: the card, the template and the recipients that it names, right or wrong.
//!
//! Apart from the endpoints, which read a call strictly and stop at its first fault: who looks for a refused call, or
//! orders a fault for one recipient, wants to know what the call was about all the same. It refuses nothing.

use std::collections::HashMap;

use serde_json::Value;

/// What a call names; empty where it names nothing, or nothing that can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Gist {
    pub(super) out_track_id: Option<Box<str>>,
    pub(super) template: Option<Box<str>>,
    pub(super) recipients: Vec<Box<str>>,
}

impl Gist {
    /// Of a JSON body, or where it is none, of these fields of a query or form.
    pub(super) fn of(body: &[u8], fields: &HashMap<String, String>) -> Self {
        let json: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |key: &str| json[key].as_str().or_else(|| fields.get(key).map(String::as_str));
        let spaces = text("openSpaceId").unwrap_or_default();
        let spaces = spaces.split_once("//").map_or("", |(_, items)| items);
        let spaces = spaces
            .split(';')
            .filter_map(|item| item.split_once('.'))
            .map(|(_, id)| id);
        let users = json["receiverUserIdList"].as_array().into_iter().flatten();
        let recipients = spaces
            .chain(users.filter_map(Value::as_str))
            .chain(text("openConversationId"))
            .chain(text("mobile").map(str::trim));
        Self {
            out_track_id: text("outTrackId").map(Box::from),
            template: text("cardTemplateId").map(Box::from),
            recipients: recipients.map(Box::from).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn recipients(body: &Value) -> Vec<String> {
        let gist = Gist::of(body.to_string().as_bytes(), &HashMap::new());
        gist.recipients.into_iter().map(String::from).collect()
    }

    #[test]
    fn recipients_stand_in_other_fields_at_each_endpoint() {
        let spaces = "dtv1.card//IM_ROBOT.u1;im_group.cidA=;";
        assert_eq!(recipients(&json!({"openSpaceId": spaces})), ["u1", "cidA="]);
        let send = json!({"receiverUserIdList": ["u1", 7, "u2"], "openConversationId": "cidB="});
        assert_eq!(recipients(&send), ["u1", "u2", "cidB="]);
        assert_eq!(recipients(&json!({"mobile": " 15012341231 "})), ["15012341231"]);
        assert_eq!(recipients(&json!({"openSpaceId": 7})), [""; 0]);
    }

    #[test]
    fn a_form_has_a_gist_too_and_rubbish_has_none() {
        let form = HashMap::from([("mobile".to_owned(), "150".to_owned())]);
        assert_eq!(&*Gist::of(b"mobile=150", &form).recipients[0], "150");
        assert_eq!(Gist::of(b"{", &HashMap::new()), Gist::default());
    }
}
