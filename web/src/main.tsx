import '@primer/primitives/dist/css/primitives.css';
import '@primer/primitives/dist/css/functional/themes/light.css';
import '@primer/primitives/dist/css/functional/themes/dark.css';
import './global.css';
import { createBrowserHistory } from '@tanstack/react-router';
import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';
import { App } from './app/App';
import { createPageRouter } from './app/router';
import { takeOutcome } from './session/outcome';

const root = document.getElementById('root');
if (root === null) {
  throw new Error('index.html has no #root');
}
const history = createBrowserHistory();
const outcome = takeOutcome(history);
createRoot(root).render(
  <StrictMode>
    <App router={createPageRouter(history)} outcome={outcome} />
  </StrictMode>,
);
