import { Link as PrimerLink, UnderlineNav } from '@primer/react';
import { createLink } from '@tanstack/react-router';

/** A link within the page, with Primer's looks. */
export const PageLink = createLink(PrimerLink);

/** A tab of the page's navigation. */
export const NavItem = createLink(UnderlineNav.Item);
