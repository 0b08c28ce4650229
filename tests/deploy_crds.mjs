// Validates the custom resources among manifests, as a JSON array on standard input, with the models that are made from
// the operators' own definitions. Apart from tests/deploy because those models are for JavaScript.
//
//   node deploy_crds.mjs MODELS     MODELS is the node_modules folder that has them
import { resolve } from "node:path";
import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

const models = {
  "keda.sh/v1alpha1": "@kubernetes-models/keda/keda.sh/v1alpha1",
  "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
};
let checked = 0;
for (const manifest of JSON.parse(await text(process.stdin))) {
  const home = models[manifest.apiVersion];
  if (!home) continue;
  const module = await import(pathToFileURL(resolve(process.argv[2], home, "index.js")));
  try {
    new module[manifest.kind](manifest).validate();
  } catch (error) {
    console.error(`${manifest.kind} ${manifest.metadata.name}: ${error.message}`);
    process.exitCode = 1;
  }
  checked += 1;
}
if (checked === 0) {
  console.error("there is no custom resource to check");
  process.exitCode = 1;
}
