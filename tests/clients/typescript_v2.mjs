// The TypeScript SDK of both eras: node typescript_v2.mjs URL

import assert from 'node:assert/strict';
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { visit } from './steps.mjs';

for (const [version, mode] of [['2025-11-25', 'legacy'], ['2026-07-28', 'auto']]) {
    const client = new Client({ name: 'tale-test', version: '1' }, { versionNegotiation: { mode } });
    const transport = new StreamableHTTPClientTransport(new URL(process.argv[2]));
    await client.connect(transport);
    await visit(`TypeScript SDK 2, ${version}`, client, { options: given => [given] });
    if (mode === 'auto') await listen(client);
    else await transport.terminateSession();
    await client.close();
}

// A subscription of the modern era tells of each status that a task takes.
async function listen(client) {
    const { structuredContent: task } = await client.callTool({ name: 'submit_task', arguments: { text: 'Go slowly.' } });
    const uri = `tale://tasks/${task.id}`;
    const updated = new Promise(resolve => {
        client.setNotificationHandler('notifications/resources/updated', told => resolve(told.params.uri));
    });
    const subscription = await client.listen({ resourceSubscriptions: [uri] });
    await client.callTool({ name: 'cancel_task', arguments: { task_id: task.id } });
    assert.equal(await updated, uri);
    await subscription.close();
}
