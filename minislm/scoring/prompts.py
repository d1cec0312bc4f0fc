"""Prompts for grading: beginnings of stories, and questions with a right and wrong answers.

Of the same kinds as those of the TinyStories paper (sections 3.1 and 4.2), written for this project
and cut in the middle of a sentence, so that a model has to go on rather than to start anew.
"""

from __future__ import annotations

from dataclasses import dataclass


def _paragraphs(text: str) -> list[str]:
    """Texts with blank lines between them, each on one line."""
    return [" ".join(each.split()) for each in text.strip().split("\n\n")]


BEGINNINGS = tuple(_paragraphs("""
Once upon a time, there was a small boat that lived by the sea. The boat wanted to see the other
side of the water, but it was afraid of the big waves. One morning, a seagull came and said, "I
can

Mia had a red balloon. She held it tight because the wind was strong. When she stopped to pet a
dog, she

Sam and his dad were building a house of wood for the birds. Sam held the nails and dad had the
hammer. Then Sam asked, "Can I

There was a little fox who could not sleep. Every night he looked at the moon and counted the
stars. One night, the moon was gone and the fox

Lucy found a key under an old tree. It was gold and very small. She tried it on every door in the
house, but it did not fit. At last she saw

Ben had two apples, one green and one red. His sister was hungry and asked for one. Ben did not
want to share, but then he

The old farmer had a horse that would not walk. He pulled and pushed, but the horse stood still. A
little girl came by and whispered something into its ear. The horse

It was raining and Tim could not go outside. He sat by the window and was bored. His grandma
opened a big box and said, "Look, in here we have

Anna wanted to bake a cake for her mom. She put flour, milk and eggs in a bowl. But when she
looked for the sugar,

One day, a turtle and a rabbit found a bright stone. Both of them wanted to have it. They began to
shout at each other until an owl

Jack had a toy train that he loved. One day his friend broke a wheel by accident. Jack was very
sad, but his friend said,

In the middle of the forest there was a lake. No animal drank from it because they thought that a
monster lived in it. One day, a brave little deer

Emma was learning to ride a bike. She fell down and hurt her knee. Her brother ran to her and

There once was a bear who did not like honey. All the other bears laughed at him. So he went away
to find

Tom's kite was stuck in a tall tree. He jumped, but he could not reach it. Then a girl with a long
stick came and

It was the night before Lily's birthday. She could not wait to see her presents. In the dark she
heard a noise and

The children were playing hide and seek. Max hid in a big basket and nobody found him. After a
long time he

A little star fell from the sky and landed in a garden. It was cold and wanted to go home. The boy
who found it

Grandpa told Zoe not to touch the blue vase. But when he left the room, Zoe

Once there was a cloud who was afraid of heights. It wanted to live on the ground. So it asked the
mountain

Peter had a secret. Behind his house there was a hole in the fence, and behind the fence there
lived

The cat sat on the roof and would not come down. Nora called and called. She had an idea and went
to get

Ella's tooth was loose. She was scared that it would hurt when it came out. Her mom said,

A mouse wanted to be big like an elephant. He ate and ate, but he stayed small. One day the
elephant got stuck in the mud, and the mouse

On the first day of school, Leo did not know anybody. He stood alone by the door until a boy with
a green hat

Mom gave Kate five cookies and told her to share with her brother. On the way to his room, Kate

There was a drum that made no sound. Everybody hit it, but it was quiet. Then a small girl came,
touched it softly, and

Fred the frog had the loudest voice in the pond. He sang all night and nobody could sleep. The
ducks asked him to stop, but Fred

The snow was so deep that the door would not open. Dad and Jill looked for a way out. "I know!"
said Jill. "We can

Henry planted a seed and gave it water every day. For a long time nothing happened. One morning he
woke up and saw

A robot lived in a shop with toys. It wanted a friend, but all the toys were asleep in the day.
When night came, the robot

Molly's doll was dirty, so she washed it in the river. But the water was fast and

Two birds were building a nest. One brought sticks and the other brought leaves. When the wind
came,

The king had lost his crown. He looked under the bed, in the kitchen and in the garden. A little
maid had seen it on

Dan and Lola went to the zoo. They saw a monkey that looked sad. Lola said to the keeper, "Why

Every morning a bus came to take the children to school. One morning the bus did not come, so the
children

A little girl named Rosa had a magic pencil. Everything she drew became real. First she drew a
flower, and then she

The pirate had a map, but he could not read it. He asked a parrot to help him. The parrot looked
at the map and

Oscar did not like to clean his room. His toys were all over the floor. That night he stepped on

There was a bridge over the river that was old and weak. A goat wanted to cross it. The fish in
the water called,

Clara was playing at the beach and made a big castle of sand. Then a wave came and

The baker made a bread that was as big as a house. He did not know how to get it out of the door.
The people of the village

Kim's little brother cried all day. She showed him her teddy, but he did not stop. Then she

A snail and a bee were friends. The bee was always fast and the snail was always late. One day
there was a storm, and the bee
"""))  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A beginning and its endings: the first is right."""

    kind: str  # "factual", "reasoning" or "context"
    prompt: str
    endings: tuple[str, ...]


def _questions(kind: str, text: str) -> tuple[Question, ...]:
    rows = (each.split(" | ") for each in _paragraphs(text))
    return tuple(Question(kind, row[0], tuple(f" {end}" for end in row[1:])) for row in rows)


_FACTUAL = _questions("factual", """
The bird opened its wings and began to | fly. | swim. | read.

Lily was very thirsty, so she drank a glass of | water. | sand. | books.

At night, when it is dark, we can see the moon and the | stars. | sun. | rainbow.

The sun was hot and the ice began to | melt. | freeze. | sing.

The cow gives us | milk. | honey. | eggs.

Tom was sick, so his mom took him to the | doctor. | zoo. | party.

The fish lives in the | water. | tree. | sky.

It was cold outside, so Ben put on his warm | coat. | shorts. | spoon.

The grass in the park was | green. | purple. | loud.

The dog wagged its tail because it was | happy. | angry. | a book.

The baby was tired, so mom put her to | bed. | school. | work.

A bee makes | honey. | bread. | shoes.
""")  # fmt: skip
_REASONING = _questions("reasoning", """
Tim wanted to play outside, but it was raining hard. So he stayed | inside. | outside. | at the
beach.

Anna had three balls. She gave all of them to Sue. Now Anna has | no balls. | five balls. | many
balls.

The box was too heavy for Sam, so he asked his strong dad for | help. | a nap. | a cookie.

Mia does not like cats. Her mom asked which pet she wants, a cat or a dog. Mia said she wants a |
dog. | cat. | spoon.

Jack dropped the glass on the hard floor and it | broke. | flew. | grew.

The store had no milk, so mom could not buy any | milk. | bread. | apples.

Ben is taller than Leo. Leo cannot reach the shelf, so he asked | Ben to get the toy. | Leo to get
the toy. | the shelf to get the toy.

Lucy forgot her umbrella and it began to rain. When she came home, she was | wet. | dry. | asleep.

The cup was full. Tom poured more milk into it and the milk | spilled. | was gone. | was hungry.

Sue had been alone all day and was sad. Then her friend came to play, and Sue was | happy. | sad.
| alone.

The door was locked and Max had no key, so he could not | open it. | see it. | like it.

It was too dark to read, so Dad turned on the | light. | water. | radio.
""")  # fmt: skip
_CONTEXT = _questions("context", """
Tom had a red car and Sue had a blue bike. Tom played with his | car. | bike. | doll.

Lily put her doll in the box and her ball under the bed. When she wanted her doll, she looked in
the | box. | bed. | garden.

There was a bear named Bob and a bird named Pip. Bob could not fly, but | Pip could. | Bob could.
| Tom could.

Mom gave Ben a pear and gave Mia a peach. Ben ate his | pear. | peach. | cake.

The frog was green and the duck was white. The animal with white wings was the | duck. | frog. |
horse.

Max went to the park with his dog Spot. At the park, Max threw a stick and it was brought back by
| Spot. | Max. | Mom.

Kate wore a yellow hat and Jane wore a black hat. Everybody could see Kate because her hat was |
yellow. | black. | asleep.

Dan was hiding behind the door and Emma was looking for him. At last, Emma looked behind the door
and found | Dan. | Emma. | Grandma.

Grandma baked a pie and Grandpa made tea. The children thanked Grandma for the | pie. | tea. |
toys.

Leo lost his blue sock. He looked everywhere for the | sock. | shoe. | fish.

A mouse lived in a hole and an owl lived in a tree. In the evening, the mouse went home to its |
hole. | tree. | nest.

Anna was at the beach and Tim was at school. The one who could swim in the sea was | Anna. | Tim.
| the teacher.
""")  # fmt: skip
QUESTIONS = _FACTUAL + _REASONING + _CONTEXT
