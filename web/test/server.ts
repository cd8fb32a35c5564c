import { setupServer } from 'msw/node';

/** What answers the requests of a test; a request nobody expects fails it. */
export const server = setupServer();
