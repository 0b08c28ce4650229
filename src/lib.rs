//! dingcard: notification jobs from RabbitMQ, shown as `DingTalk` interactive cards.
