"""dingtalk-sdk: a token and a look-up by mobile. Its one host is an attribute."""
import os

from dingtalk import AppKeyClient
from dingtalk.core.exceptions import DingTalkClientException

AppKeyClient.API_BASE_URL = os.environ["SANDBOX"] + "/"
client = AppKeyClient("corp", "dingsandbox", "sandbox-secret")
look_up = "/topapi/v2/user/getbymobile"
print(client.post(look_up, {"mobile": "15012341231"})["result"]["userid"])
try:
    client.post(look_up, {"mobile": "15000000000"})
except DingTalkClientException as error:
    print(error.errcode)
