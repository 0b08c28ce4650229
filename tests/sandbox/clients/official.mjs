// The official SDK, @alicloud/dingtalk: a token, a card, its update, a refusal. Its host is a setting.
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.resolve("target/clients/package.json"));
const { Config } = require("@alicloud/openapi-client");
const { RuntimeOptions } = require("@alicloud/tea-util");
const oauth = require("@alicloud/dingtalk/oauth2_1_0");
const card = require("@alicloud/dingtalk/card_1_0");

const config = new Config({ protocol: "http", regionId: "central", endpoint: new URL(process.env.SANDBOX).host });
const { body: token } = await new oauth.default(config).getAccessToken(new oauth.GetAccessTokenRequest({ appKey: "dingsandbox", appSecret: "sandbox-secret" }));
const client = new card.default(config), runtime = new RuntimeOptions({ autoretry: false });
const request = new card.CreateAndDeliverRequest({
  cardTemplateId: "official.schema", outTrackId: "official-1", openSpaceId: "dtv1.card//IM_ROBOT.official-user",
  cardData: new card.CreateAndDeliverRequestCardData({ cardParamMap: { pv: "2000" } }),
  imRobotOpenSpaceModel: new card.CreateAndDeliverRequestImRobotOpenSpaceModel({ supportForward: true }),
  imRobotOpenDeliverModel: new card.CreateAndDeliverRequestImRobotOpenDeliverModel({ spaceType: "IM_ROBOT" }),
});
const headers = new card.CreateAndDeliverHeaders({ xAcsDingtalkAccessToken: token.accessToken });
const { body: made } = await client.createAndDeliverWithOptions(request, headers, runtime);
console.log(made.success, made.result.deliverResults[0].success);

const change = new card.UpdateCardRequest({ outTrackId: "official-1", cardData: new card.UpdateCardRequestCardData({ cardParamMap: { pv: "2400" } }) });
const { body: updated } = await client.updateCardWithOptions(change, new card.UpdateCardHeaders({ xAcsDingtalkAccessToken: token.accessToken }), runtime);
console.log(updated.result);
try {
  await client.createAndDeliverWithOptions(request, headers, runtime);
} catch (error) {
  console.log(error.code);
}
