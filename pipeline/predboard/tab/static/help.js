// @ts-check
/** The sheet of keys. It knows nothing of what they do. */
import {h} from './elements.js';

/** Keys and what they do, in groups. */
const KEYS = {
  Anywhere: [
    ['e', 'wrong ones only, and all again'],
    ['/', 'search the paths'],
    ['[  ]', 'step before, step after'],
    ['g', 'pictures or table'],
    ['m', 'go to the matrix'],
    ['i', 'go to the images'],
    ['l', 'copy a link to this view'],
    ['u', 'undo the last tag'],
    ['?', 'this sheet'],
    ['Esc', 'close, choose none, take a filter away'],
  ],
  Images: [
    ['← → ↑ ↓', 'move, and open if one is open'],
    ['Enter', 'open'],
    ['x or Space', 'choose; Shift and arrows: several'],
    ['Ctrl A', 'choose all that are loaded'],
    ['r  h', 'tag relabel, tag hard'],
    ['t', 'tag with a word of your own'],
    ['Home  End', 'first, last'],
  ],
  'One image open': [
    ['z', 'zoom over the whole window: wheel, + − 0'],
    ['c', 'copy its path'],
    ['a  k', 'suspected label: accept what is suggested, keep it'],
  ],
  Matrix: [
    ['← → ↑ ↓', 'move over cells and names'],
    ['Enter', 'select the cell, row or column'],
    ['+  −  0', 'zoom in, out, show all'],
  ],
};

export function openHelp() {
  const dialog = h(
    'dialog',
    {
      class: 'help',
      'aria-label': 'Keys',
      onclose: () => dialog.remove(),
      onclick: e => {
        if (e.target === dialog) dialog.close();
      },
      onkeydown: e => {
        e.stopPropagation();
        if (e.key === '?') dialog.close();
      },
    },
    h('h2', null, 'Keys'),
    h(
      'div',
      {class: 'groups'},
      Object.entries(KEYS).map(([group, keys]) =>
        h(
          'section',
          null,
          h('h3', null, group),
          h(
            'table',
            null,
            keys.map(([key, words]) =>
              h(
                'tr',
                null,
                h(
                  'th',
                  {scope: 'row'},
                  key.split(/ {2,}/).map(one => h('kbd', null, one)),
                ),
                h('td', null, words),
              ),
            ),
          ),
        ),
      ),
    ),
    h(
      'p',
      {class: 'faint'},
      'Ctrl-click chooses an image, Shift-click all up to it. The address holds the whole view.',
    ),
    h('button', {autofocus: true, onclick: () => dialog.close()}, 'Close'),
  );
  document.body.append(dialog);
  dialog.showModal();
}
