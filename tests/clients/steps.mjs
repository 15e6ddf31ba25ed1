// What a client of either TypeScript SDK does on the gateway; prints one line of what it saw.

import assert from 'node:assert/strict';

const SHORT_MS = 300;

export async function visit(name, client, era) {
    const call = (tool, args, options) => client.callTool({ name: tool, arguments: args }, ...options ?? []);
    const { tools } = await client.listTools();
    const names = tools.map(tool => tool.name);
    for (const needed of ['submit_task', 'wait_for_task', 'cancel_task']) assert(names.includes(needed), needed);

    // A task from its start to its end.
    const quick = (await call('submit_task', { text: 'Say hello.' })).structuredContent;
    const done = (await call('wait_for_task', { task_id: quick.id })).structuredContent;
    assert.equal(done.status, 'completed');
    assert.equal(done.result, 'Hello world');

    // Progress, a wait that the client gives up after a time, and one that it takes up again and then cancels.
    const slow = (await call('submit_task', { text: 'Count slowly.' })).structuredContent;
    await assert.rejects(call('wait_for_task', { task_id: slow.id }, era.options({ timeout: SHORT_MS })), /time/i);
    const cancel = new AbortController();
    const told = [];
    const onprogress = progress => {
        told.push(progress);
        if (told.length === 3) cancel.abort('enough');
    };
    const waiting = call('wait_for_task', { task_id: slow.id }, era.options({ onprogress, signal: cancel.signal }));
    await assert.rejects(waiting, /enough|abort/i);
    assert(told.every((each, index) => index === 0 || each.progress > told[index - 1].progress), 'progress grows');
    const running = (await call('get_task_status', { task_id: slow.id })).structuredContent;
    assert.equal(running.status, 'running', 'a wait that is given up ends no task');

    // Cancelling the task itself.
    const cancelled = (await call('cancel_task', { task_id: slow.id })).structuredContent;
    assert.equal(cancelled.status, 'cancelled');

    // Refusals, resources, prompts.
    const refused = await call('submit_task', { text: ' ' });
    assert(refused.isError && /task/i.test(refused.content[0].text));
    const read = await client.readResource({ uri: `tale://tasks/${quick.id}` });
    assert.equal(JSON.parse(read.contents[0].text).result, 'Hello world');
    const prompt = await client.getPrompt({ name: 'delegate_work', arguments: { goal: 'Tidy up.' } });
    assert(prompt.messages[0].content.text.startsWith('Tidy up.'));
    console.log(`${name}: ${tools.length} tools, a task done, ${told.length} times progress, a wait given up twice, a task cancelled`);
}
