// Evaluates flags with OpenFeature's SDK for Node: `node server.mjs URL '[{"kind", "flag", "fallback", "context"}, …]'`.
import { OpenFeature } from '@openfeature/server-sdk';
import { OFREPProvider } from '@openfeature/ofrep-provider';

const [url, asked] = process.argv.slice(2);
await OpenFeature.setProviderAndWait(new OFREPProvider({ baseUrl: url }));
const client = OpenFeature.getClient();
const answers = [];
for (const { kind, flag, fallback, context } of JSON.parse(asked)) {
  answers.push(await client[`get${kind}Details`](flag, fallback, context));
}
console.log(JSON.stringify(answers));
await OpenFeature.close();
