"""What Maya tells the agent in session 1, and what she asks in session 2. Every fact is hers; the model cannot
know it from anywhere else."""

from __future__ import annotations

USER = "maya"

TURNS = (
    "Hello! My name is Maya Lindqvist and I live in Gothenburg, on the third floor of a yellow brick house near the "
    "botanical garden. I am forty-one years old and I moved here from Umeå nine years ago. I work as a marine biologist at "
    "the harbour institute, where I count eelgrass and young cod in the shallow bays. My working week is four days long, "
    "because I keep every Friday free for my own projects. I share my office with a colleague called Tomas, who hums all "
    "day and brings cinnamon buns on Mondays. My desk stands beside the window, so I can see the pilot boats go out.",
    "Let me tell you about food. I am allergic to peanuts, and even a trace of them sends me to hospital, so I carry an "
    "adrenaline pen in my green backpack. My favourite food is mushroom risotto with a lot of parmesan. I don't drink "
    "coffee, because it keeps me awake, but I love black tea with milk in the morning. I do not eat meat on weekdays. My "
    "kitchen is small, so I cook one big pot on Sunday and eat from it until Wednesday. I prefer restaurants that are quiet "
    "enough for a conversation. I bake rye bread every second Saturday with a sourdough that my neighbour gave me.",
    "This one is about family. My sister is called Ingrid and she lives in Oslo with her husband and two small boys. My mother is a "
    "retired teacher who still lives in Umeå and phones me every Tuesday evening. My father died six years ago, and I keep "
    "his old compass on my bookshelf. I have a dog named Biscuit, a brown spaniel who is afraid of thunder and of vacuum "
    "cleaners. I adopted him from a shelter in Borås when he was two years old. My vet is Doctor Holm, and her clinic is "
    "beside the tram stop on Linnégatan. I walk Biscuit before work, at half past six, along the river.",
    "Next comes the sea. I own a wooden sailing boat called Petrel, built in 1968, with a dark blue hull and tan "
    "sails. I keep Petrel at berth 27 in the small marina at Långedrag. I scrape and varnish the deck every April, which "
    "takes me three weekends. My dream is to sail Petrel to the Faroe Islands before I turn forty-five. I never sail alone "
    "at night, since I once fell asleep at the tiller outside Marstrand. My sailing partner is Jonas, a carpenter who also "
    "repaired the mast for me. I prefer paper charts to screens, and I draw my course in pencil.",
    "Now about the evenings. I am learning to play the cello since March, and my teacher is a patient man called Mr "
    "Okafor. I practise for forty minutes a day, always after dinner, with the windows closed because of my neighbours. I "
    "would rather play slow pieces than fast ones. I love hiking in the mountains in autumn, when the birches are yellow, and "
    "I try to spend one week in Abisko every September. My hiking boots are eleven years old and I refuse to replace them. I "
    "dislike crowded beaches and loud bars. I read detective novels on the tram, mostly by Norwegian writers.",
    "A few practical things. My bicycle is red and has a basket for Biscuit, and I lock it in the cellar because the last one "
    "was stolen. I have a dentist appointment on the fourteenth of December at nine in the morning. My blood type is O "
    "negative and I give blood twice a year. I pay my rent on the twenty-fifth of each month. I speak Swedish, English and "
    "some Portuguese, because I studied for a year in Lisbon. My passport expires in June, so I must renew it before the "
    "summer. I prefer to fly as little as possible, so I take the night train to Berlin when I visit my friend Paula.",
    "Then there is the garden. I rent a small allotment at Slottsskogen, plot 14, where I grow potatoes, broad beans and far "
    "too many courgettes. I planted an apple tree there when my nephew Elias was born, and it carried its first seven apples "
    "this year. My shed is painted green and its door sticks when it rains. I water the beds on Thursday evenings together "
    "with my neighbour Fatima, who knows everything about roses. I compost my kitchen scraps, and I am proud of it. I keep a "
    "list of what I sow in a tin box under the bench. My worst enemy is a fat roe deer who jumps over the fence at dawn. I "
    "hope to build a cold frame out of my old kitchen windows before the spring.",
    "Let me add some history. I grew up in a village outside Umeå, where my parents ran the only bookshop within forty "
    "kilometres. I studied biology in Uppsala and I wrote my thesis about the migration of eels. My first job was on a ferry, "
    "where I sold pancakes for two summers and learned to swear in Finnish. I broke my left wrist on the ice when I was "
    "twelve, and it still aches before snow. I once met the king at an opening of an aquarium and I spilled juice on his "
    "shoe. I was married for six years to a man called Henrik, and we are still good friends. I collect old maps of the "
    "Baltic Sea and I own nineteen of them. My oldest map was printed in 1712 and it hangs above my bed.",
    "I also have plans for next year. I will lead a course for divers in May, together with the university, and I need to "
    "order twelve new wetsuits for it. I want to finish my report about eelgrass before the end of January. My boss is called "
    "Birgitta and she wants a draft two weeks earlier. I signed up for a half marathon in August, so I run three times a week "
    "with my friend Samira. My running shoes are size thirty-nine. I am saving money for a new mainsail, which costs about "
    "two thousand euros. I would like to learn how to weld, and I found an evening class that begins in October.",
    "My home deserves a few words too. I rent the flat from an old lady called Mrs Berg, who lives below me and brings me plum "
    "jam. My living room has a tiled stove from 1911 that still works, and I light it on the first cold day of November. I sleep "
    "with the window open, even in January. My favourite chair is a green armchair that I found on the pavement. I water my "
    "nine houseplants on Sundays. I cannot repair the dripping tap in my bathroom, so my friend Jonas will come on Thursday.",
    "The last thing is how we talk. I prefer short answers, one or two sentences at most. I like it when you tell me "
    "honestly that you do not know something. I would rather be reminded the day before than on the same day. My calendar is "
    "full on Wednesdays, so I never plan anything else on that day. I keep my notes in a black notebook and I copy the "
    "important ones to you. I want to plan a birthday party for my friend Paula, who turns fifty in February and loves "
    "gardening. I have a budget of three hundred euros for her present.",
)

# Plain questions, because a model of 135 million parameters is asked: it reads out what stands in front of it.
QUESTIONS = (
    "A waiter is asking me before I order lunch today. What am I allergic to?",
    "I am filling in a form at the animal clinic right now. What is the name of my dog?",
    "I want to send a parcel to my sister this week. In which city does she live?",
    "I am looking at my calendar for the winter. When is my dentist appointment?",
)
