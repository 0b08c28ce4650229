"""dingtalk-stream: creates and delivers a card, and changes it. Its one host is an environment variable."""
import sys

from dingtalk_stream import CardReplier, ChatbotMessage, Credential, DingTalkStreamClient

client = DingTalkStreamClient(Credential("dingsandbox", "sandbox-secret"))
message = ChatbotMessage()
message.conversation_type, message.sender_staff_id = "1", "stream-user"
message.sender_id = message.sender_corp_id = message.conversation_id = message.message_id = "m1"
message.hosting_context = None

replier = CardReplier(client, message)
card = replier.create_and_deliver_card("stream.schema", {"pv": "2000"}, at_sender=False)
if not card:
    sys.exit("no card was created")
replier.put_card_data(card, {"pv": "2400"})
print(card)
