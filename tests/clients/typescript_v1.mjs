// The TypeScript SDK of the handshake era: node typescript_v1.mjs URL

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { visit } from './steps.mjs';

const client = new Client({ name: 'tale-test', version: '1' });
const transport = new StreamableHTTPClientTransport(new URL(process.argv[2]));
await client.connect(transport);
await visit('TypeScript SDK 1, 2025-11-25', client, { options: given => [undefined, given] });
await transport.terminateSession();
await client.close();
