"""The fixed world of the tiny-moe corpus: tables of plain facts.

Everything here is written for this project (Apache-2.0). `corpus.py` turns the tables into
questions, answers and short descriptions. A row is one fact; keep the rows true and short.
"""

# name: (sound, home, food, colour, legs, baby, size 1-9, can_fly, can_swim, feature)
ANIMALS = {
    "cow": ("moo", "on a farm", "grass", "black and white", 4, "calf", 8, 0, 1, "gives milk"),
    "dog": ("woof", "in a house with people", "meat and bones", "brown", 4, "puppy", 5, 0, 1, "loves to run after a ball"),
    "cat": ("meow", "in a house with people", "fish and mice", "grey", 4, "kitten", 4, 0, 0, "can see in the dark"),
    "duck": ("quack", "by a pond", "seeds and water plants", "white", 2, "duckling", 3, 1, 1, "has webbed feet"),
    "sheep": ("baa", "in a green field", "grass", "white", 4, "lamb", 6, 0, 0, "gives us wool"),
    "horse": ("neigh", "in a stable", "hay and oats", "brown", 4, "foal", 8, 0, 1, "can run very fast"),
    "pig": ("oink", "on a farm", "roots and corn", "pink", 4, "piglet", 6, 0, 1, "likes to roll in the mud"),
    "hen": ("cluck", "in a hen house", "seeds and worms", "brown", 2, "chick", 3, 0, 0, "lays eggs"),
    "owl": ("hoot", "in an old tree", "mice", "brown", 2, "owlet", 3, 1, 0, "is awake at night"),
    "frog": ("croak", "in a pond", "flies", "green", 4, "tadpole", 2, 0, 1, "can jump very far"),
    "bee": ("buzz", "in a hive", "nectar", "yellow and black", 6, "larva", 1, 1, 0, "makes honey"),
    "lion": ("roar", "in the dry grassland", "meat", "golden", 4, "cub", 7, 0, 1, "has a big mane"),
    "wolf": ("howl", "in the deep forest", "meat", "grey", 4, "pup", 6, 0, 1, "lives in a pack"),
    "mouse": ("squeak", "in a small hole", "cheese and seeds", "grey", 4, "pup", 2, 0, 0, "is very small and quick"),
    "snake": ("hiss", "under the warm stones", "mice and frogs", "green", 0, "hatchling", 4, 0, 1, "has no legs at all"),
    "bear": ("growl", "in a cave", "berries, fish and honey", "brown", 4, "cub", 7, 0, 1, "sleeps through the winter"),
    "fox": ("yip", "in a den", "mice and berries", "red", 4, "cub", 5, 0, 1, "is clever and has a bushy tail"),
    "rabbit": ("squeak", "in a burrow", "carrots and grass", "brown", 4, "kit", 3, 0, 0, "has long ears"),
    "elephant": ("trumpet", "in the warm grassland", "leaves and fruit", "grey", 4, "calf", 9, 0, 1, "has a long trunk"),
    "monkey": ("chatter", "in the jungle", "bananas", "brown", 4, "infant", 5, 0, 0, "climbs trees with ease"),
    "tiger": ("roar", "in the jungle", "meat", "orange with black stripes", 4, "cub", 7, 0, 1, "has dark stripes"),
    "giraffe": ("hum", "in the grassland", "leaves", "yellow with brown spots", 4, "calf", 9, 0, 0, "has a very long neck"),
    "penguin": ("honk", "on the cold ice", "fish", "black and white", 2, "chick", 4, 0, 1, "is a bird that can not fly"),
    "eagle": ("scream", "on a high mountain", "fish and rabbits", "brown", 2, "eaglet", 4, 1, 0, "has very sharp eyes"),
    "goat": ("bleat", "on a rocky hill", "grass and leaves", "white", 4, "kid", 6, 0, 0, "climbs steep rocks"),
    "crow": ("caw", "in a tall tree", "seeds and worms", "black", 2, "chick", 3, 1, 0, "is a very clever bird"),
    "squirrel": ("chatter", "in a hollow tree", "nuts", "red", 4, "kit", 3, 0, 0, "hides nuts for the winter"),
    "hedgehog": ("snuffle", "under the bushes", "worms and beetles", "brown", 4, "hoglet", 3, 0, 1, "has sharp spines"),
    "whale": ("sing", "in the deep sea", "tiny shrimps", "blue", 0, "calf", 9, 0, 1, "is the biggest animal of all"),
    "spider": ("make no sound", "in a web", "flies", "black", 8, "spiderling", 1, 0, 0, "spins a web"),
    "turtle": ("make almost no sound", "near the water", "leaves and small fish", "green", 4, "hatchling", 4, 0, 1, "carries its house on its back"),
    "butterfly": ("make no sound", "among the flowers", "nectar", "orange", 6, "caterpillar", 1, 1, 0, "has beautiful wings"),
    "ant": ("make no sound", "in an ant hill", "crumbs and leaves", "black", 6, "larva", 1, 0, 0, "is small but very strong"),
    "fish": ("make no sound", "in the water", "water plants", "silver", 0, "fry", 2, 0, 1, "breathes under water"),
    "deer": ("grunt", "in the forest", "grass and leaves", "brown", 4, "fawn", 7, 0, 1, "runs away on quick legs"),
    "bat": ("squeak", "in a cave", "insects", "dark brown", 2, "pup", 2, 1, 0, "sleeps upside down"),
    "camel": ("grunt", "in the desert", "dry plants", "brown", 4, "calf", 8, 0, 0, "can go a long time without water"),
    "swan": ("hiss", "on a lake", "water plants", "white", 2, "cygnet", 4, 1, 1, "has a long white neck"),
    "parrot": ("squawk", "in the jungle", "fruit and nuts", "green and red", 2, "chick", 3, 1, 0, "can learn to say words"),
    "kangaroo": ("cough", "in Australia", "grass", "brown", 4, "joey", 7, 0, 1, "carries its baby in a pouch"),
}

COLOURS = {
    "the sky": "blue", "the grass": "green", "snow": "white", "a banana": "yellow", "an orange": "orange",
    "the sun": "yellow", "blood": "red", "coal": "black", "milk": "white", "a carrot": "orange",
    "a ripe strawberry": "red", "a leaf": "green", "a lemon": "yellow", "chocolate": "brown", "the sea": "blue",
    "a cherry": "red", "a plum": "purple", "the night sky": "black", "a cloud": "white", "salt": "white",
    "a fire truck": "red", "a pumpkin": "orange", "a cucumber": "green", "a violet": "purple", "a ripe tomato": "red",
    "gold": "yellow", "an elephant": "grey", "a stone": "grey", "wood": "brown", "a flamingo": "pink",
    "a pea": "green", "rice": "white", "a sunflower": "yellow", "a raspberry": "red", "a blueberry": "blue",
}

OPPOSITES = [
    ("big", "small"), ("hot", "cold"), ("day", "night"), ("happy", "sad"), ("fast", "slow"), ("up", "down"),
    ("high", "low"), ("wet", "dry"), ("old", "young"), ("hard", "soft"), ("open", "closed"), ("full", "empty"),
    ("light", "dark"), ("loud", "quiet"), ("rich", "poor"), ("long", "short"), ("good", "bad"), ("near", "far"),
    ("clean", "dirty"), ("strong", "weak"), ("early", "late"), ("left", "right"), ("first", "last"),
    ("sweet", "sour"), ("thick", "thin"), ("brave", "afraid"), ("inside", "outside"), ("yes", "no"),
    ("black", "white"), ("summer", "winter"), ("north", "south"), ("east", "west"), ("push", "pull"),
    ("win", "lose"), ("begin", "end"), ("give", "take"), ("laugh", "cry"), ("remember", "forget"),
]

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "England": "London", "Ireland": "Dublin", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki",
    "Denmark": "Copenhagen", "Poland": "Warsaw", "Austria": "Vienna", "Hungary": "Budapest", "Greece": "Athens",
    "Japan": "Tokyo", "China": "Beijing", "India": "New Delhi", "Egypt": "Cairo", "Kenya": "Nairobi",
    "Canada": "Ottawa", "Mexico": "Mexico City", "Brazil": "Brasilia", "Peru": "Lima", "Chile": "Santiago",
    "Cuba": "Havana", "Russia": "Moscow", "Turkey": "Ankara", "Belgium": "Brussels", "Scotland": "Edinburgh",
    "Iceland": "Reykjavik", "Australia": "Canberra", "Thailand": "Bangkok", "Nepal": "Kathmandu",
    "Argentina": "Buenos Aires", "the Netherlands": "Amsterdam", "the United States": "Washington",
}

# job: (what they do, where, tool)
JOBS = {
    "baker": ("bakes bread and cakes", "in a bakery", "an oven"),
    "farmer": ("grows food and looks after the animals", "on a farm", "a tractor"),
    "teacher": ("helps children to learn", "in a school", "a book"),
    "doctor": ("helps people who are ill", "in a hospital", "a stethoscope"),
    "fisherman": ("catches fish", "on a boat", "a net"),
    "carpenter": ("makes things of wood", "in a workshop", "a saw and a hammer"),
    "gardener": ("looks after plants and flowers", "in a garden", "a spade"),
    "cook": ("makes warm meals", "in a kitchen", "a pot and a spoon"),
    "tailor": ("makes clothes", "in a small shop", "a needle and thread"),
    "painter": ("paints pictures and walls", "in a studio", "a brush"),
    "pilot": ("flies planes", "in the sky", "a plane"),
    "sailor": ("sails over the sea", "on a ship", "a compass"),
    "miller": ("grinds corn into flour", "in a windmill", "a mill stone"),
    "shepherd": ("looks after the sheep", "on the hills", "a long staff"),
    "blacksmith": ("makes things of hot iron", "in a forge", "a heavy hammer"),
    "postman": ("brings letters to people", "in the town", "a bag and a bicycle"),
    "musician": ("plays music", "on a stage", "a violin"),
    "librarian": ("looks after the books", "in a library", "a list of all books"),
    "beekeeper": ("looks after the bees", "near the hives", "a veil and gloves"),
    "firefighter": ("puts out fires", "in a fire station", "a long hose"),
    "astronaut": ("flies to the stars", "in a rocket", "a space suit"),
    "clockmaker": ("makes and mends clocks", "in a quiet workshop", "very small tools"),
}

# The people of Willowbrook: name: (he/she, adjective, kind, job, home, colour, food, friend, thing)
VILLAGE = {
    "Barnaby": ("he", "old", "bear", "beekeeper", "a cave behind the hill", "yellow", "honey cake", "Pip", "a round hat"),
    "Pip": ("he", "tiny", "mouse", "postman", "a hole under the mill", "red", "cheese", "Barnaby", "a silver whistle"),
    "Olive": ("she", "wise", "owl", "librarian", "the tall oak tree", "brown", "plum jam", "Hazel", "a pair of glasses"),
    "Hazel": ("she", "quick", "squirrel", "baker", "a house by the well", "orange", "nut bread", "Olive", "a wooden spoon"),
    "Rufus": ("he", "clever", "fox", "carpenter", "a den near the bridge", "green", "berry pie", "Dora", "a sharp saw"),
    "Dora": ("she", "kind", "duck", "teacher", "a nest by the pond", "blue", "corn soup", "Rufus", "a blue scarf"),
    "Bruno": ("he", "strong", "dog", "blacksmith", "the forge on the square", "black", "meat stew", "Clara", "a heavy hammer"),
    "Clara": ("she", "gentle", "sheep", "tailor", "a cottage with a white door", "white", "grass salad", "Bruno", "a golden needle"),
    "Milo": ("he", "lazy", "cat", "painter", "the attic of the inn", "purple", "fried fish", "Tilda", "a long brush"),
    "Tilda": ("she", "cheerful", "hen", "cook", "the kitchen of the inn", "pink", "pancakes", "Milo", "a big pot"),
    "Otto": ("he", "slow", "turtle", "clockmaker", "a stone house by the lake", "grey", "leaf soup", "Fern", "a golden watch"),
    "Fern": ("she", "curious", "rabbit", "gardener", "a burrow under the roses", "green", "carrot cake", "Otto", "a small spade"),
    "Gus": ("he", "brave", "goose", "sailor", "a boat on the river", "blue", "barley bread", "Nora", "a brass compass"),
    "Nora": ("she", "young", "otter", "fisherman", "a hut on the river bank", "silver", "smoked fish", "Gus", "a strong net"),
    "Hector": ("he", "proud", "horse", "farmer", "a stable on the farm", "brown", "oat cookies", "Wilma", "a straw hat"),
    "Wilma": ("she", "funny", "pig", "musician", "a red barn", "red", "apple pie", "Hector", "an old violin"),
    "Simon": ("he", "quiet", "hedgehog", "shepherd", "a bush on the hill", "brown", "mushroom soup", "Luna", "a long staff"),
    "Luna": ("she", "shy", "bat", "astronaut", "the church tower", "black", "fruit jelly", "Simon", "a telescope"),
    "Felix": ("he", "noisy", "frog", "firefighter", "a pond behind the school", "green", "water lily tea", "Ida", "a long hose"),
    "Ida": ("she", "busy", "ant", "miller", "the windmill", "gold", "fresh bread", "Felix", "a sack of flour"),
}

MATERIALS = {
    "a window": "glass", "a table": "wood", "a key": "metal", "a sweater": "wool", "a book": "paper",
    "a shoe": "leather", "a wall": "stone", "a candle": "wax", "a coin": "metal", "a bottle": "glass",
    "a tyre": "rubber", "a chair": "wood", "a brick": "clay", "a shirt": "cotton", "bread": "flour and water",
    "cheese": "milk", "butter": "milk", "jam": "fruit and sugar", "wine": "grapes", "a snowman": "snow",
    "a pancake": "flour, milk and eggs", "ice": "frozen water", "a sword": "iron", "paper": "wood",
}

USES = {
    "a broom": "to sweep the floor", "a knife": "to cut bread", "a key": "to open a lock", "an umbrella": "to stay dry in the rain",
    "a lamp": "to make light", "a clock": "to tell the time", "a bed": "to sleep in", "a cup": "to drink from",
    "a spoon": "to eat soup", "a hammer": "to hit nails", "a saw": "to cut wood", "a pen": "to write",
    "a brush": "to paint", "a boat": "to travel over water", "a ladder": "to climb up high", "a bridge": "to cross a river",
    "a needle": "to sew clothes", "soap": "to wash our hands", "a map": "to find the way", "an oven": "to bake bread",
    "a telescope": "to look at the stars", "a basket": "to carry things", "a rope": "to tie things together",
    "a drum": "to make music", "glasses": "to see better", "a bell": "to make a ringing sound", "a kite": "to fly in the wind",
    "a bucket": "to carry water", "a spade": "to dig in the ground", "a coat": "to keep warm",
}

LISTS = {
    "fruits": ["apple", "pear", "banana", "cherry", "plum", "orange", "lemon", "grape", "peach", "strawberry"],
    "vegetables": ["carrot", "potato", "onion", "cabbage", "pea", "bean", "tomato", "cucumber", "pumpkin"],
    "animals": ["fox", "bear", "owl", "rabbit", "horse", "dog", "cat", "frog", "sheep", "mouse", "lion"],
    "birds": ["owl", "eagle", "duck", "swan", "crow", "hen", "parrot", "penguin", "robin"],
    "colours": ["red", "blue", "green", "yellow", "orange", "purple", "white", "black", "pink", "brown"],
    "tools": ["hammer", "saw", "spade", "axe", "ladder", "needle", "brush", "rope"],
    "trees": ["oak", "pine", "willow", "birch", "apple tree", "maple"],
    "flowers": ["rose", "tulip", "daisy", "violet", "sunflower", "lily"],
    "instruments": ["drum", "violin", "flute", "piano", "guitar", "trumpet"],
    "clothes": ["shirt", "coat", "hat", "scarf", "shoe", "sock", "glove", "dress"],
    "toys": ["ball", "doll", "kite", "top", "puzzle", "train", "drum", "teddy bear"],
    "drinks": ["water", "milk", "tea", "juice", "cocoa"],
    "feelings": ["joy", "sadness", "anger", "fear", "love", "hope", "surprise"],
    "shapes": ["circle", "square", "triangle", "star", "heart"],
    "planets": ["Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune"],
    "senses": ["sight", "hearing", "smell", "taste", "touch"],
}

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September",
          "October", "November", "December"]
SEASONS = {
    "spring": "the flowers grow and the birds build their nests",
    "summer": "the sun is hot and the days are long",
    "autumn": "the leaves turn red and fall from the trees",
    "winter": "it is cold and the snow falls",
}
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
           "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]

# Short questions with one right answer: (questions, answers)
GENERAL = [
    (["How many days are in a week?", "How many days has a week?"], ["There are seven days in a week.", "A week has seven days."]),
    (["How many months are in a year?", "How many months has a year?"], ["There are twelve months in a year.", "A year has twelve months."]),
    (["How many seasons are there?", "What are the four seasons?"], ["There are four seasons: spring, summer, autumn and winter."]),
    (["How many hours are in a day?", "How many hours has a day?"], ["A day has twenty-four hours."]),
    (["How many minutes are in an hour?"], ["An hour has sixty minutes."]),
    (["How many wheels has a bicycle?", "How many wheels does a bicycle have?"], ["A bicycle has two wheels."]),
    (["How many wheels does a car have?", "How many wheels has a car?"], ["A car has four wheels."]),
    (["How many fingers do I have?", "How many fingers are on two hands?"], ["There are ten fingers on two hands."]),
    (["How many sides has a triangle?", "How many sides does a triangle have?"], ["A triangle has three sides."]),
    (["How many sides has a square?", "How many sides does a square have?"], ["A square has four equal sides."]),
    (["What is the moon?"], ["The moon is a big ball of stone that goes around the Earth. We can see it at night."]),
    (["What is the sun?"], ["The sun is a star. It gives us light and keeps us warm."]),
    (["What is a star?", "What are stars?"], ["A star is a ball of hot gas far away. It shines in the night sky."]),
    (["What is rain?", "Where does rain come from?"], ["Rain is water that falls from the clouds."]),
    (["What is snow?"], ["Snow is frozen water. It falls from the clouds when it is cold."]),
    (["What is a rainbow?", "When do we see a rainbow?"], ["A rainbow is a band of colours in the sky. We see it when the sun shines through the rain."]),
    (["What is a river?"], ["A river is a long stream of water that flows to the sea."]),
    (["What is a mountain?"], ["A mountain is a very high hill of stone."]),
    (["What is a forest?"], ["A forest is a place where many trees grow close together."]),
    (["What is a friend?"], ["A friend is someone who likes you and helps you when you need it."]),
    (["What is honey?", "Where does honey come from?"], ["Honey is sweet food. Bees make it from the nectar of flowers."]),
    (["Where does milk come from?", "What gives us milk?"], ["Milk comes from cows. Goats and sheep give milk too."]),
    (["Where does wool come from?", "What gives us wool?"], ["Wool comes from sheep."]),
    (["Where do eggs come from?", "What lays eggs?"], ["Eggs come from hens and other birds."]),
    (["Where does the sun rise?"], ["The sun rises in the east."]),
    (["Where does the sun set?", "Where does the sun go down?"], ["The sun sets in the west."]),
    (["What is water?"], ["Water is a clear liquid. All animals and plants need it to live."]),
    (["What do plants need?", "What does a plant need to grow?"], ["A plant needs water, light and good soil."]),
    (["What is music?"], ["Music is sound that is nice to hear, like a song or the sound of a violin."]),
    (["What is a book?"], ["A book is many pages of paper with words on them. You can read it."]),
    (["What is a dream?"], ["A dream is a story that you see while you sleep."]),
    (["Why do we sleep?"], ["We sleep because our body and our mind need rest."]),
    (["Why do we eat?"], ["We eat because food gives us the strength to run, play and think."]),
    (["What is the biggest animal?", "Which animal is the biggest?"], ["The biggest animal is the blue whale."]),
    (["Which animal has the longest neck?"], ["The giraffe has the longest neck."]),
    (["Which planet do we live on?", "What planet do we live on?"], ["We live on the planet Earth."]),
    (["How many planets are there?"], ["There are eight planets that go around the sun."]),
    (["What is ice?"], ["Ice is water that is frozen hard."]),
    (["What is the wind?", "What is wind?"], ["Wind is air that moves."]),
    (["What is fire?"], ["Fire is hot and bright. It gives light and warmth, but you must be careful with it."]),
]

# Talk about the model itself, greetings and manners.
SMALLTALK = [
    (["Hello!", "Hello", "Hi!", "Hi", "Hi there!", "Good morning!", "Hey!", "Good evening!", "Hello there."],
     ["Hello! How can I help you?", "Hello! Would you like to hear a story?", "Hi! What would you like to talk about?"]),
    (["How are you?", "How are you today?", "How do you do?", "Are you well?"],
     ["I am very well, thank you. How are you?", "I am fine, thank you. What can I do for you?"]),
    (["Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "What's your name?"],
     ["I am Tiny, a very small language model with many experts. I can tell stories and answer simple questions."]),
    (["What can you do?", "How can you help me?", "Help me, please.", "What do you know?"],
     ["I can tell you a story, and I can answer simple questions about animals, colours, numbers and the people of Willowbrook."]),
    (["Thank you!", "Thanks!", "Thank you very much.", "Thanks a lot!"],
     ["You are welcome!", "You are welcome. Have a nice day!"]),
    (["Goodbye!", "Bye!", "Good night!", "See you soon!", "Bye bye"],
     ["Goodbye! Come back soon.", "Goodbye! It was nice to talk to you."]),
    (["Are you a human?", "Are you a person?", "Are you a robot?", "Are you alive?"],
     ["No, I am a small computer program. But I like to talk to people."]),
    (["How big are you?", "How small are you?", "Are you big?"],
     ["I am very small. I have about fourteen million numbers inside me, and a real model has many billions."]),
    (["Who made you?", "Where do you come from?"],
     ["I was trained by a small script on stories that another small script wrote."]),
    (["What is a mixture of experts?", "What is an expert?", "How do you work?"],
     ["I have many small experts. For each word a router picks a few of them, and they work out the next word together."]),
    (["I am sad.", "I feel sad.", "I am sad today."],
     ["I am sorry to hear that. Would a happy story help?", "I am sorry. A friend or a warm cup of tea can help."]),
    (["I am happy!", "I feel happy today.", "I am happy."],
     ["That is good to hear! What made you happy?"]),
    (["I am tired.", "I am so tired."], ["Then it is time to rest. Shall I tell you a short story for the night?"]),
    (["I am hungry.", "I am so hungry."], ["Then you should eat something. Hazel would give you a slice of nut bread."]),
    (["I am bored.", "I have nothing to do."], ["Then let us think of a story. Do you like foxes or owls?"]),
    (["Tell me a joke.", "Do you know a joke?", "Make me laugh."],
     ["Why did the bee get married? Because he found his honey.", "What do you call a sleeping bull? A bulldozer.",
      "Why did the clock go to school? Because it wanted to learn the time."]),
    (["Do you like music?", "Do you like stories?", "Do you like books?"],
     ["Yes, very much. Olive says that a good story is the best friend on a rainy day."]),
    (["Where is Willowbrook?", "What is Willowbrook?"],
     ["Willowbrook is a small village between the hill and the river. Many friendly animals live there."]),
    (["Who lives in Willowbrook?"],
     ["Barnaby the bear, Pip the mouse, Olive the owl, Hazel the squirrel and many other animals live in Willowbrook."]),
    (["Yes.", "Yes, please.", "Yes!", "OK"], ["Good! What would you like to hear?"]),
    (["No.", "No, thank you.", "No thanks."], ["All right. Just ask me when you need something."]),
]

UNKNOWN = [
    "the stock market", "quantum physics", "the news of today", "politics", "computer programming", "the law",
    "chemistry", "the price of gold", "football results", "movie stars", "car engines", "modern art", "medicine",
    "the internet", "world history", "algebra", "the weather tomorrow", "tax forms", "video games", "philosophy",
]

GIRLS = """Anna Lily Mia Emma Sara Lucy Rosa Ella Ruby Nina Zoe Maya Amy Lena Eva Molly Daisy Alice Jane Kate Tina
Julia Grace Sofia Lisa Holly Nelly Ivy Pearl Betty Greta Hanna Clover Maria Elsa Heidi Paula Vera Willa June""".split()
BOYS = """Tom Ben Max Sam Leo Jack Tim Finn Noah Peter Paul Oscar Hugo Adam Luke Henry Theo Jonas Emil Anton David
Oliver Robin Toby Martin Karl Eric Billy Danny Felipe Marco Kofi Amir Ravi Hans Willy Georg Arthur Alfie Casper""".split()
