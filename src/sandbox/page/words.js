// What the page says, in two languages.
const TEXT = {
  en: {
    other: "中文", sandbox: "sandbox", skip: "Skip to the list", search: "Search", live: "Live", away: "Reconnecting…",
    hint: "Search ID, app, template, recipient, parameter   ( / )", calls: "Calls by endpoint and result", clear: "Delete all",
    sure: "Delete all cards and refused calls of the sandbox? The counts stay.",
    views: "What to show", filters: "Filters", app: "App", endpoint: "Endpoint", result: "Result", count: "Calls", none: "none", outcome: "Outcome", template: "Template",
    recipient: "Recipient", any: "any", reset: "Clear the filters",
    outcomes: { delivered: "shown to all", partly: "shown to some", undelivered: "shown to nobody" },
    viewCards: n => `Cards ${n}`, viewRefused: n => `Refused calls ${n}`,
    found: n => n === 1 ? "found" : "found", cards: n => n === 1 ? "card" : "cards", refusals: n => n === 1 ? "refused call" : "refused calls",
    deliveries: n => n === 1 ? "delivery" : "deliveries", recipients: n => n === 1 ? "recipient" : "recipients",
    duplicates: n => n === 1 ? "duplicate" : "duplicates", called: n => n === 1 ? "API call" : "API calls",
    newer: "Newer", older: "Older", where: (page, pages) => `Page ${page} of ${pages}`,
    to: "Shown to", as: "as seen by", failed: "Not shown to", nobody: "Nobody: no delivery succeeded, or none was asked for", track: "outTrackId",
    job: "Stands for the job, always the same for the same one. DingTalk does not get the job's ID.",
    kind: { IM_ROBOT: "User", IM_GROUP: "Group", IM_SINGLE: "Chat", ONE_BOX: "Pinned" }, times: n => `${n} times`,
    chat: { IM_ROBOT: "Chat with", IM_GROUP: "Group", IM_SINGLE: "Chat", ONE_BOX: "Pinned in" }, robot: "Robot",
    see: id => `Show the card as ${id} sees it`, only: id => `Only cards for ${id}`, more: n => `${n} more`,
    updates: n => n === 1 ? "1 update" : `${n} updates`, cut: n => `the last ${n} are shown`,
    all: "data replaced", bykey: "changed by key", same: "nothing changed", gone: "removed", priv: user => `for ${user} alone`,
    raw: "Request and answer", request: "Request", answer: "Answer", update: n => `update ${n}`, wholeCard: "The card as the API gives it",
    copy: "Copy", copied: "Copied", fresh: "New arrivals: go to the newest", noparams: "No parameters",
    emptyTitle: "No card yet", emptyText: origin => `Set api_url and oapi_url under [dingtalk] to ${origin}, start dingcard worker, and publish a first job. Its card appears here at once.`,
    noRefused: "No call was refused", nothing: "Nothing matches", trouble: why => `The sandbox did not answer: ${why}`,
    cutAnswer: "no answer", byFault: "ordered by a fault", taken: "carried out all the same", why: "Reason", asked: "Recipients named", noApp: "no known app",
    rehearse: "Rehearse an outage", inForce: n => n === 0 ? "all is well" : n === 1 ? "1 fault is in force" : `${n} faults are in force`,
    forWhom: "Strike", anyEndpoint: "every endpoint", anyApp: "every app", anyone: "every recipient", often: "How often",
    always: "every call", next: "the next", chance: "at random, %", amount: "number", switches: "Faults", off: "Switch off", allOff: "Switch all off", endTokens: "End all tokens now",
    tokensEnded: "All tokens have ended", p50: "half of them, ms", p99: "99 of 100, ms", perSecond: "calls a second", left: n => `${n} left`,
    faultKinds: { latency: "Latency", throttle: "Throttling", token_rejected: "Tokens refused", server_error: "5xx", lose_answer: "Lost answers", ip_ban: "IP ban", quota_spent: "Quota spent", ip_not_allowed: "IP not allowed", permission_missing: "No permission" },
  },
  zh: {
    other: "English", sandbox: "沙箱", skip: "跳到列表", search: "搜索", live: "实时", away: "正在重连…",
    hint: "搜索 ID、应用、模板、接收人、参数   ( / )", calls: "按接口和结果统计的调用", clear: "全部删除",
    sure: "删除沙箱里的全部卡片和被拒绝的调用？计数保留。",
    views: "显示内容", filters: "筛选", app: "应用", endpoint: "接口", result: "结果", count: "次数", none: "无", outcome: "结果", template: "模板",
    recipient: "接收人", any: "不限", reset: "清除筛选",
    outcomes: { delivered: "全部已展示", partly: "部分已展示", undelivered: "无人看到" },
    viewCards: n => `卡片 ${n}`, viewRefused: n => `被拒绝的调用 ${n}`,
    found: () => "条匹配", cards: () => "张卡片", refusals: () => "次被拒绝的调用", deliveries: () => "次投放", recipients: () => "位接收人",
    duplicates: () => "次重复", called: () => "次调用",
    newer: "较新", older: "较早", where: (page, pages) => `第 ${page} 页，共 ${pages} 页`,
    to: "已展示给", as: "视角：", failed: "未展示给", nobody: "无人：没有投放，或投放全部失败", track: "outTrackId",
    job: "代表任务，同一个任务始终不变。钉钉得不到任务的 ID。",
    kind: { IM_ROBOT: "用户", IM_GROUP: "群", IM_SINGLE: "单聊", ONE_BOX: "吊顶" }, times: n => `${n} 次`,
    chat: { IM_ROBOT: "单聊", IM_GROUP: "群", IM_SINGLE: "单聊", ONE_BOX: "吊顶" }, robot: "机器人",
    see: id => `以 ${id} 的视角显示卡片`, only: id => `只看 ${id} 的卡片`, more: n => `还有 ${n} 个`,
    updates: n => `${n} 次更新`, cut: n => `显示最近 ${n} 次`,
    all: "整体覆盖", bykey: "按 key 更新", same: "没有变化", gone: "已移除", priv: user => `仅 ${user} 可见`,
    raw: "请求和应答", request: "请求", answer: "应答", update: n => `第 ${n} 次更新`, wholeCard: "接口给出的卡片",
    copy: "复制", copied: "已复制", fresh: "有新内容：回到最新", noparams: "没有参数",
    emptyTitle: "还没有卡片", emptyText: origin => `把 [dingtalk] 的 api_url 和 oapi_url 设为 ${origin}，启动 dingcard worker，再发布第一个任务，卡片会立即出现在这里。`,
    noRefused: "没有被拒绝的调用", nothing: "没有匹配的内容", trouble: why => `沙箱没有应答：${why}`,
    cutAnswer: "没有应答", byFault: "由故障制造", taken: "仍然执行了", why: "原因", asked: "提到的接收人", noApp: "不是已知的应用",
    rehearse: "演练故障", inForce: n => n === 0 ? "一切正常" : `有 ${n} 个故障正在生效`,
    forWhom: "影响", anyEndpoint: "所有接口", anyApp: "所有应用", anyone: "所有接收人", often: "频率",
    always: "每次调用", next: "接下来的次数", chance: "随机，%", amount: "数值", switches: "故障", off: "关闭", allOff: "全部关闭", endTokens: "立即让所有 token 失效",
    tokensEnded: "所有 token 已失效", p50: "一半不超过，毫秒", p99: "99% 不超过，毫秒", perSecond: "每秒调用数", left: n => `还剩 ${n} 次`,
    faultKinds: { latency: "延迟", throttle: "限流", token_rejected: "token 被拒绝", server_error: "5xx", lose_answer: "应答丢失", ip_ban: "IP 封禁", quota_spent: "额度用完", ip_not_allowed: "IP 不在白名单", permission_missing: "没有权限" },
  },
};
const stored = () => { try { return localStorage.getItem("dingcard-lang"); } catch { return null; } };
let current = stored() ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
if (!TEXT[current]) current = "en";

export const lang = () => current;
export const t = (key, ...given) => { const text = TEXT[current][key]; return typeof text === "function" ? text(...given) : text; };

export function otherLanguage() {
  current = current === "zh" ? "en" : "zh";
  try { localStorage.setItem("dingcard-lang", current); } catch { /* it lasts as long as the page */ }
}
